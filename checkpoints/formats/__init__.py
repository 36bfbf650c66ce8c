"""Files of weights, opened by their content: names and shapes at once, arrays when asked for."""

from pathlib import Path

from checkpoints.cache import archive
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.location import (
    HDF5_MAGIC,
    newest_checkpoint,
    only_checkpoint,
    saved_model_directory,
    starts_with,
)

__all__ = ["Checkpoint", "open_checkpoint"]

_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a file of weights, whatever of these it is.

    A TF checkpoint: the V1 file; the V2 prefix or one of its files; a training directory (its newest one).
    Keras weights: .h5, .weights.h5, or those in a .keras file. A SavedModel: the directory.
    A .tar.gz with exactly one of them, which is unpacked in the cache. No code of a model is ever run.
    Raises CheckpointError where it is missing, not whole or something else.
    """
    path = Path(path)
    try:
        return _open(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or path}: {error.strerror or error}") from error


def _open(path: Path) -> Checkpoint:
    if archive.is_archive(path):
        path = only_checkpoint(archive.unpack(path))
    if (directory := saved_model_directory(path)) is not None:
        from checkpoints.formats.saved_model import open_saved_model

        return open_saved_model(directory)
    if path.is_dir():
        path = newest_checkpoint(path)
    if path.is_file() and starts_with(path, HDF5_MAGIC):
        from checkpoints.formats.keras_h5 import open_keras_h5

        return open_keras_h5(path)
    if path.is_file() and any(starts_with(path, magic) for magic in _ZIP_MAGIC):
        from checkpoints.formats.keras_zip import open_keras_zip

        return open_keras_zip(path)
    if path.is_file() and path.name.endswith(".weights.json"):
        from checkpoints.formats.keras_h5 import SHARDED

        raise CheckpointError(f"{path} {SHARDED}")
    from checkpoints.formats.aliases import plain
    from checkpoints.formats.slim import open_slim

    return plain(open_slim(path))
