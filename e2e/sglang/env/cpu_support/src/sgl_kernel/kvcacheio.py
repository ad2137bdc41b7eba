"""Names that SGLang imports whether it uses them or not."""

from sgl_kernel import __getattr__  # noqa: F401
