"""Keras weights in the layout of `model.save_weights("x.weights.h5")` since Keras 3 (and tf.keras 2.13).

A layer is a group named by its class, counted among its neighbours: `layers/conv2d_1/vars/0`, and in a model inside
a model `layers/functional/layers/conv2d_1/vars/0`. Source: keras/src/saving/saving_lib.py, `_save_container_state`.
"""

import re
from pathlib import Path
from typing import Any

from checkpoints.cache.records import sha256_of
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.hdf5 import Hdf5, all_datasets, numeric

SHARDED = (
    "holds weights that Keras split over several files: expected one file; load the model and save it again with "
    "model.save_weights('x.weights.h5') without max_shard_size"
)
_VARIABLE = re.compile(r"(?:^|/)vars/[^/]+$")


def open_keras_weights(path: Path) -> Checkpoint:
    """Open a `.weights.h5` file; names are Keras's keys (`layers/conv2d/vars/0`), counted up in their order.

    `layers` says what a variable's layer is called, where the file has it (Keras 3.4 and later).
    Raises CheckpointError where the file is damaged, holds links, or no weights.
    """
    source = Hdf5(path)
    shapes, layers = read_shapes(source)
    return Checkpoint(path, "keras-weights-h5", shapes, source.read, sha256_of(path), layers=layers)


def read_shapes(source: Hdf5) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """(key -> shape, key -> the layer's own name where the file says it) of a file in this layout."""
    with source.opened() as file:
        keys = [key for key in all_datasets(file, source.path) if _VARIABLE.search(key)]
        keys.sort(key=counted)
        shapes = {key: tuple(numeric(file, key, source.path).shape) for key in keys}
        names = {key: _layer_name(file[key].parent.attrs.get("name")) for key in keys}
    if not shapes:
        raise CheckpointError(
            f"{source.path} is an HDF5 file that holds no weights of Keras: expected layers as model.save_weights, "
            "model.save or Keras Applications write them"
        )
    return shapes, {key: name for key, name in names.items() if name}


def counted(name: str) -> list[str | int]:
    """Sort by numbers as numbers: `conv2d_9` before `conv2d_10`, and `conv2d` first."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


def _layer_name(attribute: Any) -> str:
    if isinstance(attribute, bytes):
        return attribute.decode("utf-8", errors="replace")
    return attribute if isinstance(attribute, str) else ""
