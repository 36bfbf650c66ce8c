"""A copy of a Keras 2 model file in which nothing differs but the values of moving statistics."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from checkpoints.formats.hdf5 import numeric
from checkpoints.formats.hdf5_copy import edited_copy
from checkpoints.formats.keras_h5 import texts
from finetune.backbone.keras_2.keyed_weights import keyed_places
from finetune.backbone.keras_2.legacy_file import open_legacy
from finetune.backbone.keras_2.to_keras_3 import STATISTICS, Transfer
from finetune.batchnorm.live import normalisations
from finetune.errors import FinetuneError


def write_statistics(path: Path, model: Any, out: Path) -> None:
    """Copy the file to `out` with the moving statistics of `model`.

    model: what `transferred` made of the file, or what `open_legacy` gave. Raises FinetuneError where the file keeps
    them where they cannot be found.
    """
    source = open_legacy(path)
    if isinstance(model, keras.Model):
        transfer = Transfer(str(path))
        again = normalisations(transfer.of_model(source))
        layers = {id(made): layer for layer, made in transfer.pairs}
        pairs = [(layers[id(own)], new) for own, new in zip(again, normalisations(model), strict=True)]
    else:
        pairs = list(zip(normalisations(source), normalisations(model), strict=True))
    values: dict[int, tuple[Any, np.ndarray]] = {}
    for layer, new in pairs:
        for part in STATISTICS:
            values[id(getattr(layer, part))] = getattr(layer, part), np.asarray(getattr(new, part))
        if hasattr(layer, "moving_stddev"):  # of `renorm`: the next training step computes the variance from it
            sigma = np.sqrt(np.asarray(new.moving_variance) + layer.epsilon)
            values[id(layer.moving_stddev)] = layer.moving_stddev, sigma
    zipped = zipfile.is_zipfile(path)
    with edited_copy(path, out) as file:
        _assign(file, keyed_places(file, source) if zipped else _places(file, source), values, path)


def _places(file: Any, model: Any) -> dict[int, str]:
    """The dataset of each variable by `id(variable)`: an HDF5 file has them in the model's order."""
    group = file["model_weights"]
    names = [name for name in texts(group, "layer_names") if texts(group[name], "weight_names")]
    layers = [one for one in model.layers if one.weights]
    return {
        id(variable): f"model_weights/{name}/{weight}"
        for name, layer in zip(names, layers, strict=True)
        for variable, weight in zip(
            layer.trainable_weights + layer.non_trainable_weights, texts(group[name], "weight_names"), strict=True
        )
    }


def _assign(file: Any, places: Mapping[int, str], values: Mapping[int, tuple[Any, np.ndarray]], path: Path) -> None:
    """Write the values into the datasets, which must hold what was loaded into the variables."""
    for key, (variable, value) in values.items():
        dataset = numeric(file, places[key], path)
        before = np.asarray(dataset[()]).astype(np.float32)
        if not np.array_equal(before, np.asarray(variable).astype(np.float32), equal_nan=True):
            raise FinetuneError(
                f"{path} keeps the moving statistics of its layers in an order that is not known here: load it in the "
                "Keras it came from and save it again there"
            )
        dataset[...] = value.reshape(dataset.shape)
