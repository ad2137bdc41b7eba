"""The command ``tent``."""
