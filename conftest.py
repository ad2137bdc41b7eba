"""What every test shares, unit and end-to-end alike: see tests/support/plugin.py."""

pytest_plugins = ("support.plugin",)
