"""Model files of Keras 2, made with `tf_keras`: its layers and its `save`; older versions by editing what it wrote."""

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

SIZE = 16
CLASSES = 3


def images(count: int = 8) -> np.ndarray:
    """float32 pixels `[count, 16, 16, 3]`, from 0 to 255."""
    return np.random.default_rng(0).uniform(0, 255, (count, SIZE, SIZE, 3)).astype(np.float32)


def model(body: Callable[[Any], Any], *, top: bool = True) -> Any:
    """A functional model: an input, `body`, and a pooled softmax, with moving statistics that are not 0 and 1."""
    tf_keras.utils.set_random_seed(1)
    inputs = tf_keras.Input((SIZE, SIZE, 3))
    x = body(inputs)
    if top:
        x = layers.Dense(CLASSES, activation="softmax", dtype="float32")(layers.GlobalAveragePooling2D()(x))
    return moved(tf_keras.Model(inputs, x))


def moved(model: Any) -> Any:
    """`model` with random moving statistics, gammas and betas."""
    rng = np.random.default_rng(2)
    for layer in model._flatten_layers():
        if hasattr(layer, "moving_mean"):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.5, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2, shape))
            for part in (layer.gamma, layer.beta):
                if part is not None:
                    part.assign(rng.uniform(0.5, 1.5, shape))
    return model


def conv(x: Any, bn: Callable[[], Any] = layers.BatchNormalization) -> Any:
    """A convolution, BatchNorm, ReLU."""
    return layers.ReLU()(bn()(layers.Conv2D(6, 3, 2)(layers.Rescaling(1 / 255)(x))))


def whole(x: Any) -> Any:
    """Preprocessing between layers, augmentation, a model in the model."""
    return base()(layers.RandomFlip()(tf_keras.applications.mobilenet_v2.preprocess_input(x)))


def base() -> Any:
    """A model to be called in another: BatchNorm in it."""
    inputs = tf_keras.Input((SIZE, SIZE, 3))
    return tf_keras.Model(inputs, conv(inputs), name="base")


def written(model: Any, path: Path) -> Path:
    """The file that Keras 2 saves, without its warning that HDF5 is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


def edited(path: Path, change: Callable[[dict[str, Any]], None], *, version: str) -> Path:
    """The HDF5 file with its model config changed, as `version` of Keras would have written it."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config)
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = file["model_weights"].attrs["keras_version"] = version
    return path


def each_layer(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers of a model config, those of models in it as well."""
    found = []
    for layer in config["config"]["layers"]:
        found += [layer, *(each_layer(layer) if "layers" in layer["config"] else [])]
    return found


def as_before_2_15(path: Path, separator: str) -> None:
    """Name the groups of weights in a `.keras` file as Keras 2.12 did, on a system that separates folders so."""
    with zipfile.ZipFile(path) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    (path.parent / "weights").write_bytes(members["model.weights.h5"])
    with h5py.File(path.parent / "weights") as old, h5py.File(path.parent / "renamed", "w") as new:

        def copy(name: str, place: Any) -> None:
            if isinstance(place, h5py.Dataset):
                layer, _, number = name.rpartition("/vars/")
                layer = layer.replace("layers", "_layer_checkpoint_dependencies").replace("/", separator)
                new[f"{layer}/vars/{number}"] = place[()]

        old.visititems(copy)
    members["model.weights.h5"] = (path.parent / "renamed").read_bytes()
    members["config.json"] = members["config.json"].replace(b"tf_keras.src", b"keras.src")
    members["metadata.json"] = b'{"keras_version": "2.12.0", "date_saved": "2023-05-01@10:00:00"}'
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)


def in_training(model: Any, pixels: Any = None) -> Any:
    """Keras 2's own `training=True` on `pixels`, else `images()`, without dropout, noise and augmentation."""
    for layer in model._flatten_layers():
        if any(word in type(layer).__name__ for word in ("Dropout", "Random", "Noise")):
            layer.call = lambda inputs, training=None, call=layer.call: call(inputs, training=False)
    return model(tf.constant(images() if pixels is None else pixels), training=True).numpy()


def of_2017(name: str) -> str:
    """A layer of Keras's ResNet50 as it was called until 2019."""
    for now, then in (("conv1_conv", "conv1"), ("conv1_bn", "bn_conv1"), ("predictions", "fc1000")):
        if name == now:
            return then
    stage, block, part, kind = name.split("_")
    branch = ("branch1", "branch2a", "branch2b", "branch2c")[int(part)]
    return f"{'res' if kind == 'conv' else 'bn'}{stage[4]}{'abcdef'[int(block[5:]) - 1]}_{branch}"
