"""Names for nodes that were given none."""

from __future__ import annotations

import os
import secrets
import socket

__all__ = ["generated_name"]


def generated_name() -> str:
    """Host, process and a random part: unique without asking anybody, and readable in ``tent ls``."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
