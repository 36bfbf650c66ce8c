"""The way out: a finished run in a form that other programs take. A format is one module here."""

from importlib import import_module
from pathlib import Path

from finetune.export.written import Exported

__all__ = ["FORMATS", "Exported", "export"]

FORMATS = {"slim": "a TF1 slim checkpoint: tf_slim's networks restore it by name"}
"""Each is the module of this package whose `write(target, out)` writes it. Read without TensorFlow."""


def export(target: Path, out: Path, *, form: str) -> Exported:
    """Write the run `target`, a directory or a `.keras` file in one, to `out` in one of `FORMATS`.

    Nothing is overwritten, and nothing is left behind where it fails. Raises WrongUse for an `out` that is there
    already, FinetuneError with the reason where the run has no such form.
    """
    exported: Exported = import_module(f"{__name__}.{form}").write(target, out)
    return exported
