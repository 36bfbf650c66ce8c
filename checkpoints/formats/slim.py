"""TF checkpoints as TF-slim's `Saver` writes them, V1 and V2. TensorFlow is imported inside the functions."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from checkpoints.cache import sha256_of
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.location import find_slim


def open_slim(path: Path) -> Checkpoint:
    """Open a V1 file or a V2 prefix; `shapes` is sorted by name.

    Tensors that are not numbers (`_CHECKPOINTABLE_OBJECT_GRAPH` of object-based checkpoints) are left out.
    Raises CheckpointError where the checkpoint is missing, not whole or not readable.
    """
    found = find_slim(path)
    marks = sorted(set("*?[") & set(str(found.prefix)))
    if marks:
        raise CheckpointError(
            f"TensorFlow takes {' '.join(marks)} in {found.prefix} for a pattern: move the checkpoint to a path "
            "without it"
        )
    with _errors(found.prefix):
        import tensorflow as tf

        reader = tf.train.load_checkpoint(str(found.prefix))
        dtypes = reader.get_variable_to_dtype_map()
        shapes = {
            name: tuple(int(side) for side in shape)
            for name, shape in sorted(reader.get_variable_to_shape_map().items())
            if dtypes[name].is_floating or dtypes[name].is_integer or dtypes[name].is_bool
        }
    if not shapes:
        raise CheckpointError(f"{found.prefix} holds no weights: expected the variables of a network")

    def read(name: str) -> np.ndarray:
        with _errors(found.prefix):
            return np.asarray(reader.get_tensor(name))

    return Checkpoint(path=found.prefix, kind=found.kind, shapes=shapes, read=read, sha256=sha256_of(*found.files))


@contextlib.contextmanager
def _errors(prefix: Path) -> Iterator[None]:
    """Translate what the reader raises for damaged files."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.OpError, RuntimeError, ValueError, LookupError, OSError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"the checkpoint {prefix} is damaged or was cut off ({reason}): copy or fetch it again"
        ) from error
