"""The version of this package, its name as a distribution, and how it is installed."""

__version__ = "0.1.0"

PACKAGE = "finetune-backbones"
"""Its name on the package index."""

PUBLISHED = False
"""Whether the package index has it. Every install line follows: of messages and model cards by `install_line`, of pages
by tests/docs/test_pages.py. CONTRIBUTING.md, "Publishing", has the steps of the day it becomes true."""


def requirement(extra: str = "") -> str:
    """What `pip install` takes for this package with an extra: `'.[onnx]'`, in a checkout, until it is published."""
    name = PACKAGE if PUBLISHED else "."
    return f"'{name}[{extra}]'" if extra else name


def install_line(extra: str = "", *, options: str = "") -> str:
    """For a message: the command that installs this package with an extra, and where it is typed."""
    line = " ".join(("pip install", *filter(None, [options]), requirement(extra)))
    return line if PUBLISHED else f"{line} (in a checkout of finetune)"
