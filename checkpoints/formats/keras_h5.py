"""Keras weights in HDF5, in the layout of `model.save_weights` before Keras 3 and of `model.save("x.h5")` since."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from checkpoints.cache import sha256_of
from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint


def open_keras_h5(path: Path) -> Checkpoint:
    """Open a file of Keras weights; names are `layer/variable` (`conv1_bn/gamma`), in the file's order.

    The layer is its group's name, the variable the last part of the weight's name without ":0". Where two of a
    layer share that part (a model inside a model), the variable keeps its whole name.
    Raises CheckpointError where the file is cut off, damaged or of another layout, and where its arrays lie in
    other files or are not numbers.
    """
    with _errors(path), h5py.File(path, "r") as file:
        group = _weights_group(file, path)
        datasets = {}
        for layer in _texts(group, "layer_names"):
            datasets.update(_layer(group, layer))
        shapes = {name: _numeric(file, where, path).shape for name, where in datasets.items()}
    if not shapes:
        raise CheckpointError(f"{path} holds no weights: expected the variables of a network")

    def read(name: str) -> np.ndarray:
        with _errors(path), h5py.File(path, "r") as file:
            return np.asarray(_numeric(file, datasets[name], path)[()])

    return Checkpoint(path=path, kind="keras-h5", shapes=shapes, read=read, sha256=sha256_of(path))


def _weights_group(file: Any, path: Path) -> Any:
    group = file["model_weights"] if "model_weights" in file and "layer_names" not in file.attrs else file
    if any(name.startswith("layer_names") for name in group.attrs):
        return group
    raise CheckpointError(
        f"{path} is an HDF5 file without layer names (the .weights.h5 layout of Keras 3 has none): expected Keras "
        "weights as model.save('weights.h5') writes them"
    )


def _layer(group: Any, layer: str) -> dict[str, str]:
    """Variable name in our spelling -> path of its dataset, for one layer."""
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


def _numeric(file: Any, where: str, path: Path) -> Any:
    """A dataset of numbers whose bytes lie in this file. Raises CheckpointError for any other."""
    place = file
    for part in where.strip("/").split("/"):
        if isinstance(place.get(part, getlink=True), h5py.ExternalLink):
            raise CheckpointError(f"{path} keeps {where} in another file: expected all weights in one file")
        place = place[part]
    if not isinstance(place, h5py.Dataset):
        raise CheckpointError(f"{path} holds no array at {where}: the file is damaged or of another layout")
    if place.external or place.is_virtual:
        raise CheckpointError(f"{path} keeps {where} in another file: expected all weights in one file")
    if place.dtype.kind not in "fiub":
        raise CheckpointError(f"{path} holds {place.dtype} at {where}: expected numbers")
    return place


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Translate what h5py raises for damaged files."""
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is damaged or was cut off ({reason}): expected Keras weights (.h5); copy or fetch it again"
        ) from error
