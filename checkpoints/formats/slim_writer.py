"""Write a TF1 checkpoint (V2 format) that slim's `Saver` restores."""

import glob
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from checkpoints.cache.disk import written_by_tensorflow
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint


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

    Both are written under another prefix and renamed, the index last: a reader that finds it finds the data.
    Raises CheckpointError where something of that name is there already, OSError where the disk is full.
    """
    import tensorflow as tf

    endings = (".data-00000-of-00001", ".index")
    for ending in endings:
        if Path(f"{prefix}{ending}").exists():
            raise CheckpointError(f"{prefix}{ending} is already there and is not overwritten: give another name")
    temporary = prefix.with_name(f".{prefix.name}.tmp")
    names, moved = sorted(arrays), list[Path]()
    try:
        with written_by_tensorflow(prefix):
            tf.raw_ops.SaveV2(
                prefix=str(temporary),
                tensor_names=names,
                shape_and_slices=[""] * len(names),
                tensors=[tf.constant(arrays[name]) for name in names],
            )
        for ending in endings:
            os.replace(f"{temporary}{ending}", f"{prefix}{ending}")
            moved.append(Path(f"{prefix}{ending}"))
    except BaseException as error:
        for path in moved:  # data without its index
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(prefix), None
        raise
    finally:
        # SaveV2 that fails leaves its own temporary files as well.
        for path in temporary.parent.glob(f"{glob.escape(temporary.name)}*"):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
