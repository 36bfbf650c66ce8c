"""Files of weights, opened by their content: names and shapes at once, arrays when asked for."""

from pathlib import Path

from checkpoints import archive
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.location import EXPECTED, HDF5_MAGIC, newest_checkpoint, only_checkpoint, starts_with

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a file of weights, whatever of these it is.

    A TF checkpoint: the V1 file; the V2 prefix or one of its files; a training directory (its newest one).
    Keras weights: the .h5 file. A .tar.gz with exactly one of them, which is unpacked in the cache.
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
    if path.is_dir():
        path = newest_checkpoint(path)
    if path.is_file() and starts_with(path, HDF5_MAGIC):
        from checkpoints.formats.keras_h5 import open_keras_h5

        return open_keras_h5(path)
    if path.is_file() and starts_with(path, b"PK\x03\x04"):
        raise CheckpointError(
            f"{path} is a .keras or other zip archive: expected {EXPECTED}. Save the weights of a Keras model with "
            "model.save('weights.h5')."
        )
    from checkpoints.formats.slim import open_slim

    return open_slim(path)
