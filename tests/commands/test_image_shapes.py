"""Networks of one channel, of four, and of images that are not square, from the diagnosis to a prediction."""

import json
import shlex

import keras
import numpy as np
import pytest
from PIL import Image

from tests.support import commands

CLASSES = 4


def typed(*words):
    return commands.typed(shlex.join(map(str, words)))


def network(path, shape):
    keras.utils.set_random_seed(1)
    images = keras.Input(shape)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, strides=2)(images))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = keras.Model(images, keras.layers.Dense(CLASSES)(x))
    model.layers[2].moving_mean.assign(np.linspace(-0.2, 0.2, 8))
    model.save(path)
    return model


def written(path, shape):
    """Noise around a brightness of each class, written as an `.npz`; the test images and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 96)
    bright = (labels * 40 + 40).reshape(-1, *[1] * len(shape))
    images = np.clip(bright + rng.normal(0, 25, (96, *shape)), 0, 255).astype(np.uint8)
    np.savez(path, x_train=images[:64], y_train=labels[:64], x_test=images[64:], y_test=labels[64:])
    return images[64:], labels[64:]


def grey(images):
    return np.stack([np.asarray(Image.fromarray(one).convert("L")) for one in images])[..., None]


@pytest.mark.parametrize(
    ("takes", "data", "as_taken", "said"),
    [
        ((28, 28, 1), (28, 28), lambda images: images[..., None], ""),
        ((24, 32, 3), (24, 32, 3), lambda images: images, ""),
        ((28, 28, 1), (28, 28, 3), grey, "RGB images become grey"),
        ((28, 28, 4), (28, 28, 4), lambda images: images, ""),
    ],
)
def test_a_diagnosis_gives_keras_own_accuracy(takes, data, as_taken, said, tmp_path):
    model = network(tmp_path / "model.keras", takes)
    images, labels = written(tmp_path / "data.npz", data)
    words = ("diagnose-bn", tmp_path / "model.keras", "--preprocess", "unit", "--data", tmp_path / "data.npz")
    result = typed(*words, "--json")
    right = model.predict(as_taken(images).astype(np.float32) / 255, verbose=0).argmax(axis=1) == labels
    report = json.loads(result.stdout)
    assert report["accuracy"]["test"]["is_training_false"] == pytest.approx(right.mean(), abs=1e-9)
    assert not said or said in typed(*words).stderr


@pytest.mark.parametrize(
    ("backbone", "data", "size", "native", "said"),
    [
        ((28, 28, 1), (28, 28, 3), "28x28x1", [28, 28], "RGB images become grey"),
        (None, (28, 28), 32, [28, 28, 1], "grey images are repeated three times"),
        pytest.param(None, (24, 32, 3), "24x32", [24, 32], "", marks=pytest.mark.slow),
    ],
)
def test_runs_train_predict_and_are_exported(backbone, data, size, native, said, tmp_path):
    written(tmp_path / "data.npz", data)
    run, name, options = tmp_path / "run", "resnet_v1_demo", ["--image-size", size] if size == "24x32" else []
    if backbone:
        network(tmp_path / "model.keras", backbone)
        name, options = tmp_path / "model.keras", ["--preprocess", "unit"]
    options += ["--epochs", "1", "--run-dir", run, "--augment", "none", "--freeze", "*"]
    result = typed("run", "--backbone", name, "--data", tmp_path / "data.npz", *options)
    assert result.exit_code == 0
    assert said in result.stderr
    assert json.loads((run / "config.json").read_text())["image_size"] == size
    assert json.loads((run / "data.json").read_text())["image_shape"] == native
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for mode in ("L", "RGB", "RGBA", "P"):
        Image.fromarray(pixels).convert("RGB").convert(mode).save(tmp_path / f"{mode}.png")
    found = typed("predict", run, *sorted(tmp_path.glob("*.png")), "--json")
    assert len(json.loads(found.stdout)["images"]) == 4
    out = tmp_path / "pixels.keras"
    exported = typed("export", run, "--format", "keras", "--out", out, "--with-preprocessing", "--json")
    assert json.loads(exported.stdout)["exports"][0]["evaluation"]["agreement"] == 1
    assert keras.models.load_model(out).input_shape == (None, *(*native, 3)[:3])
