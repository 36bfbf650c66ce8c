"""Write a TF1 checkpoint (V2 format) that slim's `Saver` restores."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from checkpoints.atomic import move_all, naming, working_folder, written_by_tensorflow
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint

_WORKING = ".tmp.slim-"


def everything(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Every tensor of a TF checkpoint, also those that are not numbers."""
    import tensorflow as tf

    arrays = {name: checkpoint.read(name) for name in checkpoint.shapes}
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
