"""TF checkpoints as TF-slim's `Saver` writes them, V1 and V2. TensorFlow is imported inside the functions."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from checkpoints.cache.records import sha256_of
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.location import find_slim
from checkpoints.formats.object_graph import OBJECT_GRAPH, variable_names
from checkpoints.formats.table import check_index


def open_slim(path: Path) -> Checkpoint:
    """Open a V1 file or a V2 prefix; `shapes` is sorted by name.

    Tensors that are not numbers are left out. An object-based checkpoint of TF2 has the variables' own names in place
    of its keys (`conv1/kernel` for `model/_operations/1/_kernel/.ATTRIBUTES/VARIABLE_VALUE`).
    Raises CheckpointError where the checkpoint is missing, not whole or not readable.
    """
    found = find_slim(path)
    return open_variables(found.prefix, found.prefix, found.kind)


def open_variables(prefix: Path, path: Path, kind: str, *, own_names: bool = True) -> Checkpoint:
    """Open the TF checkpoint at `prefix` as a Checkpoint of this path and kind. Raises as `open_slim` does.

    Without `own_names`, names are the file's keys even where it says how the variables were called.
    """
    found = find_slim(prefix)
    marks = sorted(set("*?[") & set(str(prefix)))
    if marks:
        raise CheckpointError(
            f"TensorFlow takes {' '.join(marks)} in {prefix} for a pattern: move the checkpoint to a path without it"
        )
    with _errors(prefix):
        import tensorflow as tf

        if len(found.files) > 1:
            check_index(found.files[0], found.files[1:])
        reader = tf.train.load_checkpoint(str(prefix))
        dtypes = reader.get_variable_to_dtype_map()
        shapes = {
            key: tuple(int(side) for side in shape)
            for key, shape in sorted(reader.get_variable_to_shape_map().items())
            if dtypes[key].is_floating or dtypes[key].is_integer or dtypes[key].is_bool
        }
        named = own_names and OBJECT_GRAPH in dtypes
        keys = variable_names(reader, shapes) if named else {key: key for key in shapes}
    if not shapes:
        raise CheckpointError(f"{path} holds no weights: expected the variables of a network")

    def read(name: str) -> np.ndarray:
        with _errors(prefix):
            return np.asarray(reader.get_tensor(keys[name]))

    return Checkpoint(
        path=path,
        kind=kind,
        shapes={name: shapes[key] for name, key in sorted(keys.items())},
        read=read,
        sha256=sha256_of(*found.files),
    )


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
