"""Keras weights in HDF5, in two layouts.

- Layers by name: `model.save_weights` before Keras 3, and `model.save("x.h5")` since.
- Layers by key: `model.save_weights("x.weights.h5")` since Keras 3 (and tf.keras 2.13). A layer is a group named by its
  class, counted among its neighbours: `layers/conv2d_1/vars/0`, and in a model inside a model
  `layers/functional/layers/conv2d_1/vars/0`. Source: keras/src/saving/saving_lib.py, `_save_container_state`.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from checkpoints.cache.records import sha256_of
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.hdf5 import Hdf5, all_datasets, numeric

SHARDED = (
    "holds weights that Keras split over several files: expected one file; load the model and save it again with "
    "model.save_weights('x.weights.h5') without max_shard_size"
)
_KERAS_1 = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
    **{name: name for name in ("gamma", "beta", "depthwise_kernel", "pointwise_kernel")},
}
"""Variables as Keras 1 called them, behind the name of their layer and perhaps with a number behind them:
`block1_conv1_W_1` in the published files of VGG. `running_std` holds variances."""
_VARIABLE = re.compile(r"(?:^|/)vars/[^/]+$")


def open_keras_h5(path: Path) -> Checkpoint:
    """Open a file of Keras weights.

    Layers by name (kind `keras-h5`): names are `layer/variable` (`conv1_bn/gamma`), in the file's order. The layer is
    its group's name, the variable the last part of the weight's name without ":0", in today's spelling. Where these are
    of several layers (a model inside a model), or two share that part, the variables keep their whole names.
    Layers by key (kind `keras-weights-h5`): names are Keras's keys (`layers/conv2d/vars/0`), counted up in their order.
    `layers` says what a variable's layer is called, where the file has it (Keras 3.4 and later).
    Raises CheckpointError where the file is cut off, damaged, of another layout or without weights, and where its
    arrays lie in other files or are not numbers.
    """
    source = Hdf5(path)
    with source.opened() as file:
        group = _weights_group(file)
        if group is not None:
            datasets = {}
            for layer in texts(group, "layer_names"):
                datasets.update(_layer(group, layer))
            shapes = {name: numeric(file, where, path).shape for name, where in datasets.items()}
    if group is None:
        shapes, layers = read_shapes(source)
        places = dict(zip(shapes, shapes, strict=True))
        return Checkpoint(path, "keras-weights-h5", shapes, source.read, sha256_of(path), layers=layers, places=places)
    if not shapes:
        raise CheckpointError(f"{path} holds no weights: expected the variables of a network")
    return Checkpoint(
        path, "keras-h5", shapes, lambda name: source.read(datasets[name]), sha256_of(path), places=datasets
    )


def read_shapes(source: Hdf5) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """(key -> shape, key -> the layer's own name where the file says it) of a file with layers by key."""
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
    weights = texts(where, "weight_names")
    plain = [re.sub(r":\d+$", "", name) for name in weights]
    last = [name.rpartition("/")[2] for name in plain]
    nested, count = len({name.rpartition("/")[0] for name in plain}) > 1, Counter(last)
    variables = [
        _spelled_today(layer, whole.removeprefix(f"{layer}/") if nested or count[short] > 1 else short)
        for short, whole in zip(last, plain, strict=True)
    ]
    return {
        f"{layer}/{variable}": f"{where.name}/{weight}" for variable, weight in zip(variables, weights, strict=True)
    }


def _spelled_today(layer: str, variable: str) -> str:
    of_keras_1 = re.fullmatch(rf"{re.escape(layer)}_(\w+?)(_\d+)?", variable)
    return _KERAS_1.get(of_keras_1[1], variable) if of_keras_1 else variable


def texts(group: Any, attribute: str) -> list[str]:
    """A list of names kept as an attribute, which Keras splits into `name0`, `name1`, ... above 64 kB."""
    if attribute in group.attrs:
        chunks = [group.attrs[attribute]]
    else:
        count = sum(bool(re.fullmatch(rf"{attribute}\d+", name)) for name in group.attrs)
        chunks = [group.attrs[f"{attribute}{i}"] for i in range(count)]
    names = [name for chunk in chunks for name in np.asarray(chunk).reshape(-1).tolist()]
    return [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]
