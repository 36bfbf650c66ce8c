"""Keras weights in HDF5, in the layout of `model.save_weights` before Keras 3 and of `model.save("x.h5")` since."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from checkpoints.cache.records import sha256_of
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.hdf5 import Hdf5, numeric


def open_keras_h5(path: Path) -> Checkpoint:
    """Open a file of Keras weights; names are `layer/variable` (`conv1_bn/gamma`), in the file's order.

    The layer is its group's name, the variable the last part of the weight's name without ":0". Where two of a
    layer share that part (a model inside a model), the variable keeps its whole name.
    Raises CheckpointError where the file is cut off, damaged or of another layout, and where its arrays lie in
    other files or are not numbers.
    """
    source = Hdf5(path)
    with source.opened() as file:
        group = _weights_group(file)
        if group is None:
            raise CheckpointError(f"{path} is an HDF5 file without layer names: expected Keras weights (.h5)")
        datasets = {}
        for layer in _texts(group, "layer_names"):
            datasets.update(_layer(group, layer))
        shapes = {name: numeric(file, where, path).shape for name, where in datasets.items()}
    if not shapes:
        raise CheckpointError(f"{path} holds no weights: expected the variables of a network")
    return Checkpoint(path, "keras-h5", shapes, lambda name: source.read(datasets[name]), sha256_of(path))


def has_layer_names(path: Path) -> bool:
    """Whether an HDF5 file is of this layout."""
    with Hdf5(path).opened() as file:
        return _weights_group(file) is not None


def _weights_group(file: Any) -> Any:
    """The group that lists its layers: the file itself, or `model_weights` of a whole model. None without one."""
    if _lists_layers(file):
        return file
    inner = file["model_weights"] if isinstance(file.get("model_weights", getlink=True), h5py.HardLink) else None
    return inner if inner is not None and _lists_layers(inner) else None


def _lists_layers(group: Any) -> bool:
    return any(name.startswith("layer_names") for name in group.attrs)


def _layer(group: Any, layer: str) -> dict[str, str]:
    """Variable name in this package's spelling -> path of its dataset, for one layer."""
    where = group[layer]
    weights = _texts(where, "weight_names")
    plain = [re.sub(r":\d+$", "", name) for name in weights]
    last = [name.rpartition("/")[2] for name in plain]
    count = Counter(last)
    variables = [
        short if count[short] == 1 else whole.removeprefix(f"{layer}/")
        for short, whole in zip(last, plain, strict=True)
    ]
    return {
        f"{layer}/{variable}": f"{where.name}/{weight}" for variable, weight in zip(variables, weights, strict=True)
    }


def _texts(group: Any, attribute: str) -> list[str]:
    """A list of names kept as an attribute, which Keras splits into `name0`, `name1`, ... above 64 kB."""
    if attribute in group.attrs:
        chunks = [group.attrs[attribute]]
    else:
        count = sum(bool(re.fullmatch(rf"{attribute}\d+", name)) for name in group.attrs)
        chunks = [group.attrs[f"{attribute}{i}"] for i in range(count)]
    names = [name for chunk in chunks for name in np.asarray(chunk).reshape(-1).tolist()]
    return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]
