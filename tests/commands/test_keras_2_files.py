"""Every command on model files that Keras 2 saved: the accuracy is Keras 2's own, to the image."""

import json

import h5py
import numpy as np
import pytest
import tf_keras
from PIL import Image
from tf_keras import layers

from finetune.backbone.keras_2.legacy_file import open_legacy
from tests.support import keras_2_files as files
from tests.support.commands import typed


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """64 + 64 images of three colours, hard to tell apart."""
    path = tmp_path_factory.mktemp("data") / "colours.npz"
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 128)
    pixels = np.eye(3)[labels][:, None, None] * 40 + rng.normal(120, 40, (128, files.SIZE, files.SIZE, 3))
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    np.savez(path, x_train=pixels[:64], y_train=labels[:64], x_test=pixels[64:], y_test=labels[64:])
    return path


def correct(path, colours, *, ghosts=False):
    """How many test images Keras 2 classifies."""
    with np.load(colours) as data:
        images, labels = data["x_test"].astype(np.float32), data["y_test"]
    # What it saved with ghost batches Keras 2 cannot load: its axis is one too high.
    model = open_legacy(path) if ghosts else tf_keras.models.load_model(path, compile=False)
    return int((model(images, training=False).numpy().argmax(axis=1) == labels).sum())


def taught(body, colours):
    """A model whose head fits the features under batch statistics, while its moving statistics are random."""
    model = files.model(body)
    with np.load(colours) as data:
        images, labels = data["x_train"].astype(np.float32), data["y_train"]
    features = tf_keras.Model(model.inputs, model.layers[-2].output)
    inner = [layer for layer in model.layers if layer.name == "base"]
    found = inner[0](images, training=True).numpy().mean(axis=(1, 2)) if inner else features(images, training=True)
    found = np.concatenate([found, np.ones((len(images), 1))], axis=1)
    solved = np.linalg.lstsq(found, 10 * np.eye(3)[labels], rcond=None)[0]
    model.layers[-1].set_weights([solved[:-1], solved[-1]])
    return files.moved(model)


def nested(x):
    return files.base()(x, training=False)


def renormalised(x):
    return files.conv(x, lambda: layers.BatchNormalization(renorm=True))


def ghosts(x):
    return files.conv(x, lambda: layers.BatchNormalization(virtual_batch_size=4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "suffix"), [(files.conv, ".keras"), (nested, ".h5"), (renormalised, ".h5"), (ghosts, ".keras")]
)
def test_a_file_is_diagnosed_and_recalibrated(body, suffix, colours, tmp_path):
    path, out = files.written(taught(body, colours), tmp_path / f"own{suffix}"), tmp_path / f"copy{suffix}"
    result = typed(f"diagnose-bn {path} --preprocess raw --data {colours} --quick --json")
    assert result.exit_code in (0, 3, 4), result.output
    test = json.loads(result.stdout)["accuracy"]["test"]
    assert round(64 * test["is_training_false"]) == correct(path, colours, ghosts=body is ghosts)
    result = typed(f"recalibrate-bn {path} --preprocess raw --data {colours} --out {out} --json")
    assert result.exit_code == 0, result.output
    assert round(64 * test["recalibrated"]) == correct(out, colours, ghosts=body is ghosts)


@pytest.mark.slow
def test_a_file_is_a_backbone_and_is_inspected(colours, tmp_path):
    path = files.written(files.model(nested), tmp_path / "own.h5")
    result = typed(f"checkpoint inspect {path} --json")
    assert json.loads(result.stdout)["batchnorm"][0]["channels"] == 6
    run = f"run --backbone {path} --data {colours} --preprocess raw --epochs 1 --freeze * --batch-size 20 --quiet"
    result = typed(f"{run.replace('*', chr(39) + '*' + chr(39))} --run-dir {tmp_path / 'run'}")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run/result.json").read_text())


def test_a_damaged_file_is_said_to_be_damaged_and_a_whole_one_is_not(colours, tmp_path):
    path = files.written(files.model(files.conv), tmp_path / "own.h5")
    with h5py.File(path, "r+") as file:
        del file["model_weights"]
    result = typed(f"diagnose-bn {path} --preprocess raw --data {colours}")
    assert result.exit_code == 1
    assert "saved by Keras 2." in result.output
    path.write_bytes(path.read_bytes()[:3000])
    result = typed(f"diagnose-bn {path} --preprocess raw --data {colours}")
    assert "copy" in result.output
    assert result.exit_code == 1


@pytest.mark.slow
def test_a_savedmodel_is_scored_and_predicts_what_keras_2_does(colours, tmp_path):
    taught(files.conv, colours).save(tmp_path / "own", save_format="tf")
    model = tf_keras.models.load_model(tmp_path / "own", compile=False)
    with np.load(colours) as data:
        images, labels = data["x_test"], data["y_test"]
    Image.fromarray(images[0]).save(tmp_path / "one.png")
    chances = model(images.astype(np.float32), training=False).numpy()
    result = typed(f"evaluate {tmp_path}/own --preprocess raw --data {colours} --json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["correct"] == int(np.sum(np.argmax(chances, axis=1) == labels))
    loss = tf_keras.losses.sparse_categorical_crossentropy(labels, chances)
    assert found["loss"] == pytest.approx(float(np.mean(loss)), rel=1e-5)
    result = typed(f"predict {tmp_path}/own {tmp_path}/one.png --preprocess raw --data {colours} --json")
    assert result.exit_code == 0, result.output
    told = {each["class"]: each["probability"] for each in json.loads(result.stdout)["images"][0]["classes"]}
    assert told == pytest.approx({str(number): float(one) for number, one in enumerate(chances[0])}, abs=1e-5)
