"""TF checkpoints, read: of TF-slim's `Saver`, V1 and V2, and object-based ones of TF2, whose keys are paths through
objects. And written: V2, as slim's `Saver` restores it.

TensorFlow is imported inside the functions.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.atomic import move_all, naming, working_folder, written_by_tensorflow
from checkpoints.cache.records import sha256_of
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.location import Slim, find_slim
from checkpoints.formats.table import check_index

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The key of the graph (tensorflow/core/protobuf/trackable_object_graph.proto)."""

_WORKING = ".tmp.slim-"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_OPTIMIZER = re.compile(r"(^|/)_?optimizer/|/\.OPTIMIZER_SLOT/")


def open_slim(path: Path) -> Checkpoint:
    """Open a V1 file or a V2 prefix; `shapes` is sorted by name.

    Tensors that are not numbers are left out. An object-based checkpoint of TF2 has the variables' own names in place
    of its keys (`conv1/kernel` for `layer_with_weights-1/kernel/.ATTRIBUTES/VARIABLE_VALUE`), in the order of its
    layers.
    Raises CheckpointError where the checkpoint is missing, not whole or not readable.
    """
    found = find_slim(path)
    return open_variables(found, found.prefix, found.kind)


def open_variables(found: Slim, path: Path, kind: str, *, own_names: bool = True) -> Checkpoint:
    """Open a TF checkpoint as a Checkpoint of this path and kind. Raises as `open_slim` does.

    Without `own_names`, names are the file's keys even where it says how the variables were called.
    """
    prefix = found.prefix
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
        keys = _variable_names(reader, shapes) if named else {key: key for key in shapes}
    if not shapes:
        raise CheckpointError(f"{path} holds no weights: expected the variables of a network")

    def read(name: str) -> np.ndarray:
        with _errors(prefix):
            return np.asarray(reader.get_tensor(keys[name]))

    names = sorted(keys, key=lambda name: _order(keys[name])) if named else sorted(keys)
    return Checkpoint(
        path=path,
        kind=kind,
        shapes={name: shapes[keys[name]] for name in names},
        read=read,
        sha256=sha256_of(*found.files),
        places=keys if named else {},
    )


def _order(key: str) -> list[tuple[int, str]]:
    """Sorts keys by the numbers in them: `layer_with_weights-10` after `layer_with_weights-9`."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", key)]


def _variable_names(reader: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Map each variable's name to its key among `shapes`.

    A variable saved under two keys (Keras's `model.export` does) is one. Where two variables share a name, and for
    what has none, the key stands without its ending. What belongs to an optimizer gets `optimizer/` in front.
    """
    by_name: dict[str, list[str]] = {}
    for key, name in _own_names(reader, shapes).items():
        by_name.setdefault(name, []).append(key)
    names = {}
    for name, keys in by_name.items():
        if name and (len(keys) == 1 or _all_equal(reader, keys, shapes)):
            names[name] = keys[0]
        else:
            names.update({key.removesuffix(_SUFFIX): key for key in keys})
    return names


def _own_names(reader: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Key -> `full_name`, in the order of the graph; "" where the graph does not say."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(OBJECT_GRAPH))
    attributes = (attribute for node in graph.nodes for attribute in node.attributes)
    names = {attribute.checkpoint_key: attribute.full_name.removesuffix(":0") for attribute in attributes}
    found = {key: name for key, name in names.items() if key in shapes} | {
        key: "" for key in shapes if key not in names
    }
    return {
        key: f"optimizer/{name}" if name and _OPTIMIZER.search(key) and not name.startswith("optimizer/") else name
        for key, name in found.items()
    }


def _all_equal(reader: Any, keys: list[str], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    if len({shapes[key] for key in keys}) > 1:
        return False
    first = reader.get_tensor(keys[0])
    return all(np.array_equal(first, reader.get_tensor(key), equal_nan=first.dtype.kind == "f") for key in keys[1:])


def key_of(checkpoint: Checkpoint, name: str) -> str:
    """What the file of a TF checkpoint calls a variable."""
    own = checkpoint.keys.get(name, name)
    return checkpoint.places.get(own, own)


def everything(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Every tensor of a TF checkpoint, also those that are not numbers, under the names in the file."""
    import tensorflow as tf

    there = (name for name in checkpoint.shapes if name not in checkpoint.absent)
    arrays = {key_of(checkpoint, name): checkpoint.read(name) for name in there}
    reader = tf.train.load_checkpoint(str(checkpoint.path))
    for name in reader.get_variable_to_shape_map():
        if name not in arrays:
            arrays[name] = reader.get_tensor(name)
    return arrays


def write_slim(prefix: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` by name as `prefix.index` and `prefix.data-00000-of-00001`.

    Both are written in a working folder and moved, the index last: a reader that finds it finds the data.
    Raises CheckpointError where something of that name is there already, OSError where the disk is full.
    """
    import tensorflow as tf

    for ending in (".data-00000-of-00001", ".index"):
        if Path(f"{prefix}{ending}").exists():
            raise CheckpointError(f"{prefix}{ending} is already there and is not overwritten: give another name")
    names = sorted(arrays)
    parent = prefix.absolute().parent
    with naming(prefix, instead_of=parent), working_folder(parent, _WORKING) as temporary:
        with written_by_tensorflow(prefix):
            tf.raw_ops.SaveV2(
                prefix=str(temporary / prefix.name),
                tensor_names=names,
                shape_and_slices=[""] * len(names),
                tensors=[tf.constant(arrays[name]) for name in names],
            )
        move_all(temporary, parent)


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
