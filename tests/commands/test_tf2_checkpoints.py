"""TF2 checkpoints of tf.keras's `save_weights`: trained on, and recalibrated so that Keras 2 loads the copy."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.support.commands import typed

SIDE = 32
ROW = "keras/mobilenet_0.25"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(the model, the folder of its checkpoint and data): statistics are 0 and 1, so its batches are not normalised."""
    folder = tmp_path_factory.mktemp("tf2")
    tf_keras.utils.set_random_seed(0)
    model = tf_keras.applications.MobileNet(
        weights=None, input_shape=(SIDE, SIDE, 3), alpha=0.25, classes=3, classifier_activation=None, dropout=0.0
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (90, SIDE, SIDE, 3), "u1")
    labels = np.argmax(model(images.astype("float32") / 127.5 - 1, training=True), 1)
    labels[:3] = range(3)
    for layer in model.layers:
        if hasattr(layer, "moving_mean"):
            layer.moving_mean.assign(tf.zeros_like(layer.moving_mean))
            layer.moving_variance.assign(tf.ones_like(layer.moving_variance))
    model.save_weights(folder / "cp-0001.ckpt")
    np.savez(folder / "own.npz", x_train=images, y_train=labels, x_test=images[:45], y_test=labels[:45])
    return model, folder


def test_it_is_recalibrated_and_keras_2_loads_the_copy(saved, tmp_path):
    model, folder = saved
    given = f"--backbone {ROW} --checkpoint {folder} --data {folder}/own.npz --image-size {SIDE}"
    result = typed(f"recalibrate-bn {given} --out {tmp_path}/copy.ckpt --json")
    assert result.exit_code == 0, result.output
    copy = tf_keras.models.clone_model(model)
    copy.load_weights(tmp_path / "copy.ckpt").assert_existing_objects_matched()
    with np.load(folder / "own.npz") as data:
        images, labels = data["x_test"].astype("float32") / 127.5 - 1, data["y_test"]
    right = int(np.sum(np.argmax(copy(images, training=False), 1) == labels))
    assert round(45 * json.loads(result.stdout)["after"]["accuracy"]) == right
    for old, new in zip(model.weights, copy.weights, strict=True):
        assert np.array_equal(old, new) == ("moving_" not in old.name), old.name


@pytest.mark.slow
def test_it_is_trained_on(saved, tmp_path):
    _, folder = saved
    line = f"run --backbone {ROW} --checkpoint {folder}/cp-0001.ckpt --data {folder}/own.npz --image-size {SIDE}"
    result = typed(f"{line} --epochs 1 --freeze '*' --allow-overlap --quiet --run-dir {tmp_path}/run")
    assert result.exit_code == 0, result.output
    loaded = json.loads((tmp_path / "run/load.json").read_text())
    assert loaded["kind"] == "slim-v2"
    assert set(loaded["ignored"]) == {"old head"}


@pytest.mark.slow
def test_one_of_several_outputs_is_trained_on(tmp_path):
    inputs = tf_keras.Input((16, 16, 3))
    x = tf_keras.layers.BatchNormalization()(tf_keras.layers.Conv2D(4, 3)(inputs))
    x = tf_keras.layers.GlobalAveragePooling2D(name="pool")(x)
    heads = [tf_keras.layers.Dense(count, activation="softmax", name=f"of_{count}")(x) for count in (2, 3)]
    tf_keras.Model(inputs, heads).save(tmp_path / "two", save_format="tf")
    images, labels = np.random.default_rng(0).integers(0, 255, (60, 16, 16, 3), "u1"), np.arange(60) % 3
    np.savez(tmp_path / "own.npz", x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:])
    line = f"run --backbone {tmp_path}/two --data {tmp_path}/own.npz --preprocess unit --epochs 1 --freeze '*' --quiet"
    result = typed(f"{line} --run-dir {tmp_path}/none")
    assert "2 outputs" in result.stderr
    assert "--output of_2" in result.stderr
    result = typed(f"{line} --output of_3 --head keep --run-dir {tmp_path}/run --json")
    assert result.exit_code == 0, result.output
    scored = typed(f"evaluate {tmp_path}/two --output of_3 --data {tmp_path}/own.npz --preprocess unit --json")
    pixels = images[40:].astype("float32") / 255
    chances = tf_keras.models.load_model(tmp_path / "two", compile=False)(pixels)[1].numpy()
    found = json.loads(scored.stdout)
    assert found["correct"] == int(np.sum(np.argmax(chances, 1) == labels[40:]))
    loss = tf_keras.losses.sparse_categorical_crossentropy(labels[40:], chances)
    assert found["loss"] == pytest.approx(float(np.mean(loss)), abs=1e-5)
