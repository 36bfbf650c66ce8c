"""Model files of other releases of Keras 3: what augmentation layers once had, and what is off, does no harm."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

from finetune.backbone.keras_file import open_model
from finetune.errors import FinetuneError

IMAGES = np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 3)).astype(np.float32)


def saved(path, change):
    """A model of these layers, and its file with the settings of each layer changed by `change(class, settings)`."""
    layers = keras.layers
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.RandomRotation(0.2), layers.Rescaling(2.0)], name="inner")
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(inner(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    model.save(path)

    def edit(config):
        for layer in config["config"]["layers"]:
            change(layer["class_name"], layer["config"])
            if "layers" in layer["config"]:
                edit(layer)
        return config

    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps(edit(json.loads(file.attrs["model_config"])))
        return model
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["config.json"] = json.dumps(edit(json.loads(contents["config.json"])))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return model


def of_another_release(kind, settings):
    if kind == "RandomRotation":
        settings["value_range"] = [0, 255]  # Keras 3.5
    if kind in ("Conv2D", "Dense"):
        settings["setting_to_come"] = None
    if kind == "BatchNormalization":
        settings["another_to_come"] = False


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_settings_that_change_nothing_are_left_out(name, tmp_path):
    model = saved(tmp_path / name, of_another_release)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(TypeError):
        keras.models.load_model(tmp_path / name)
    opened = open_model(tmp_path / name)
    np.testing.assert_array_equal(opened(IMAGES, training=False), model(IMAGES, training=False))
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(("name", "value"), [("model.keras", 0), ("model.h5", "fast")])
def test_a_setting_that_may_do_something_is_named(name, value, tmp_path):
    def change(kind, settings):
        if kind == "Dense":
            settings["setting_to_come"] = value

    saved(tmp_path / name, change)
    with pytest.raises(FinetuneError, match=r"setting_to_come.*save it again by the Keras that wrote it"):
        open_model(tmp_path / name)
