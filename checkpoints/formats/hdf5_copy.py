"""A copy of a Keras file of weights in which nothing differs but the values of some variables."""

import io
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from checkpoints.atomic import replacing
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.hdf5 import numeric

WEIGHTS = "model.weights.h5"
"""The member of a `.keras` archive that is the HDF5 file."""


@contextmanager
def edited_copy(path: Path, out: Path) -> Iterator[Any]:
    """The HDF5 file of a copy of `path`, open for writing; `out` is whole at the end. `path`: `.h5`, or `.keras`."""
    if not zipfile.is_zipfile(path):
        shutil.copyfile(path, out)
        with h5py.File(out, "r+") as file:
            yield file
        return
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = io.BytesIO(old.read(info))
            if info.filename == WEIGHTS:
                with h5py.File(content, "r+") as file:
                    yield file
            new.writestr(info, content.getvalue())


def write_keras_copy(out: Path, opened: Checkpoint, values: Mapping[str, np.ndarray]) -> None:
    """Write a copy of a Keras file to `out`, atomically, with `values` (name -> array) in place of its own.

    Raises CheckpointError where the file lacks one of them.
    """
    missing = sorted(name for name in values if name not in opened.places)
    if missing:
        raise CheckpointError(
            f"{opened.path} has no place for {missing[0]} ({len(missing)} of {len(values)} values): load it in Keras "
            "with the whole model and save that"
        )
    with replacing(out) as temporary, edited_copy(opened.path, temporary) as file:
        for name, value in values.items():
            dataset = numeric(file, opened.places[name], opened.path)
            dataset[...] = value.reshape(dataset.shape)
