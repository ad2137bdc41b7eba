"""``python -m tent_core.cli`` is the command ``tent``."""

import sys

from tent_core.cli.main import main

sys.exit(main())
