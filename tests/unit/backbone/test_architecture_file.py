"""Weights that were saved alone, with their architecture: the logits of the program that saved them."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from finetune.backbone import find_backbone, load_backbone
from finetune.backbone.architecture_file import assembled
from finetune.errors import FinetuneError
from tests.support.commands import typed

pytestmark = pytest.mark.filterwarnings("ignore:You are saving")
SIDE = 8
PIXELS = np.random.default_rng(0).normal(size=(20, SIDE, SIDE, 3)).astype(np.float32)


def network(library, seed=1):
    """A model with a model in it, and statistics and weights of its own, in Keras 2 or 3."""
    layers = library.layers
    images = library.Input((SIDE, SIDE, 3))
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="conv")(images))
    base = library.Model(images, layers.ReLU(name="relu")(x), name="base")
    outer = library.Input((SIDE, SIDE, 3))
    x = layers.GlobalAveragePooling2D(name="pool")(base(outer))
    model = library.Model(outer, layers.Dense(3, activation="softmax", name="classes")(x))
    rng = np.random.default_rng(seed)
    model.set_weights([np.abs(rng.normal(size=one.shape)) + 0.1 for one in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    old, new = network(tf_keras), network(keras)
    (folder / "old.json").write_text(old.to_json())
    (folder / "new.json").write_text(new.to_json())
    (folder / "dumped.json").write_text(json.dumps(new.to_json()))
    old.save_weights(folder / "cp.ckpt")
    old.save_weights(folder / "literal/checkpoint")
    old.save_weights(folder / "old_weights.h5")
    tf.train.Checkpoint(step=tf.Variable(3), optimizer=tf_keras.optimizers.Adam(), net=old).save(folder / "train/ckpt")
    new.save_weights(folder / "new.weights.h5")
    old.save(folder / "whole.h5")
    old.save(folder / "whole_old.keras")
    new.save(folder / "whole_new.keras")
    network(tf_keras, 2).save(folder / "old.h5")
    network(keras, 2).save(folder / "new.keras")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "weights"),
    [
        ("old.json", "cp.ckpt"),
        ("old.json", "old_weights.h5"),
        ("old.h5", "cp.ckpt"),
        ("new.keras", "cp.ckpt"),
        ("new.json", "new.weights.h5"),
        ("old.json", "new.weights.h5"),
        ("old.h5", "new.weights.h5"),
        ("old.json", "literal/checkpoint"),
        ("dumped.json", "old_weights.h5"),
        ("new.keras", "new.weights.h5"),
        ("old.json", "train/ckpt-1"),
        ("new.keras", "train"),
        ("old.h5", "whole.h5"),
        ("old.json", "whole_old.keras"),
        ("new.keras", "whole_new.keras"),
        ("new.keras", "whole.h5"),
    ],
)
def test_the_logits_are_those_of_the_program_that_saved_the_weights(place, architecture, weights):
    model = assembled(place / architecture, place / weights)
    expected = network(tf_keras)(PIXELS, training=False)
    np.testing.assert_allclose(model(PIXELS, training=False), expected, atol=1e-5)


def test_what_does_not_belong_together_is_said(place, tmp_path):
    images = keras.Input((SIDE, SIDE, 3))
    other = keras.Model(images, keras.layers.Dense(3, name="other")(keras.layers.Flatten()(images)))
    (tmp_path / "other.json").write_text(other.to_json())
    for weights in ("cp.ckpt", "old_weights.h5", "new.weights.h5"):
        with pytest.raises(FinetuneError, match="give the architecture that they were saved from"):
            assembled(tmp_path / "other.json", place / weights)
    with pytest.raises(FinetuneError, match="holds no weights that are known"):
        assembled(tmp_path / "other.json", place / "nowhere")
    for text in ("[]", "{", "7"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(FinetuneError, match="is no JSON of a model"):
            assembled(tmp_path / "bad.json", place / "cp.ckpt")


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_code_in_json_is_refused(place, tmp_path, library):
    images = library.Input((SIDE, SIDE, 3))
    model = library.Model(images, library.layers.Lambda(lambda x: x * 2)(images))
    (tmp_path / "lambda.json").write_text(model.to_json())
    with pytest.raises(FinetuneError, match=r"refused: .*Lambda"):
        assembled(tmp_path / "lambda.json", place / "old_weights.h5")


def test_the_commands_take_both_files(place, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (60, SIDE, SIDE, 3), "u1"), np.arange(60) % 3
    np.savez(tmp_path / "three.npz", x_train=images, y_train=labels, x_test=images[:30], y_test=labels[:30])
    both = f"{place}/cp.ckpt --architecture {place}/old.json --data {tmp_path}/three.npz --preprocess unit"
    result = typed(f"evaluate {both} --json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    probabilities = network(tf_keras)(images[:30].astype("float32") / 255, training=False)
    losses = tf_keras.losses.sparse_categorical_crossentropy(labels[:30], probabilities)
    assert found["correct"] == int(np.sum(np.argmax(probabilities, 1) == labels[:30]))
    assert found["loss"] == pytest.approx(float(np.mean(losses)), abs=1e-5)
    assert typed(f"diagnose-bn {both} --quick --quiet").exit_code in (0, 3, 4)
    result = typed(f"evaluate {place}/cp.ckpt --data {tmp_path}/three.npz")
    assert "--architecture FILE, the model it is of" in result.stderr
    result = typed(f"evaluate {place}/new.weights.h5 --data {tmp_path}/three.npz")
    assert "--architecture FILE" in result.stderr


def test_a_recalibrated_copy_is_one_model_file(place, tmp_path):
    """The copy holds both: NumPy's own moments of the convolution's output are the moving statistics in it."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, SIDE, SIDE, 3), "u1")
    labels = np.argmax(network(tf_keras)(images.astype("float32") / 255, training=True), 1)
    labels[:3] = range(3)  # the network chooses two
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images[:30], y_test=labels[:30])
    line = f"recalibrate-bn {place}/literal/checkpoint --architecture {place}/old.json --data {tmp_path}/own.npz"
    result = typed(f"{line} --preprocess unit --out {tmp_path}/copy.keras --quiet")
    assert result.exit_code == 0, result.output
    copy, own = keras.models.load_model(tmp_path / "copy.keras"), network(tf_keras)
    x = own.get_layer("base").get_layer("conv")(images.astype("float32") / 255).numpy().astype(np.float64)
    bn = copy.get_layer("base").get_layer("bn")
    np.testing.assert_allclose(bn.moving_mean, x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(bn.moving_variance, x.var((0, 1, 2)), rtol=1e-4)
    np.testing.assert_array_equal(copy.get_layer("classes").kernel, own.get_layer("classes").kernel)


@pytest.mark.parametrize(("architecture", "weights"), [("old.h5", "cp.ckpt"), ("new.keras", "new.weights.h5")])
def test_a_model_file_is_a_backbone_with_the_weights_of_another_file(place, architecture, weights):
    """The features are those of the program that saved the weights, and `diagnose-bn` takes the same two options."""
    spec = find_backbone(str(place / architecture))
    loaded = load_backbone(spec, image_size=SIDE, checkpoint=place / weights)
    own = network(tf_keras)
    features = tf_keras.Model(own.input, own.layers[-2].output)
    np.testing.assert_allclose(loaded.model(PIXELS, training=False), features(PIXELS), atol=1e-5)
    assert loaded.report.path == str(place / weights)
    assert loaded.report.sha256


def test_a_run_and_a_diagnosis_take_a_model_file_with_other_weights(place, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (60, SIDE, SIDE, 3), "u1"), np.arange(60) % 3
    np.savez(tmp_path / "three.npz", x_train=images, y_train=labels, x_test=images[:30] // 2, y_test=labels[:30])
    both = f"--backbone {place}/new.keras --checkpoint {place}/cp.ckpt --data {tmp_path}/three.npz --preprocess unit"
    result = typed(f"run {both} --epochs 1 --head keep --freeze * --bn freeze --run-dir {tmp_path}/run --validation 0")
    assert result.exit_code == 0, result.output
    trained, own = keras.models.load_model(tmp_path / "run/model.keras"), network(tf_keras)
    np.testing.assert_array_equal(trained.get_layer("conv").kernel, own.get_layer("base").get_layer("conv").kernel)
    kernels = trained.get_layer("classes").kernel, own.get_layer("classes").kernel
    np.testing.assert_allclose(*kernels, atol=0.02)  # it was trained a little
    result = typed(f"evaluate {both} --json")
    assert result.exit_code == 0, result.output
    probabilities = own(images[:30] // 2 / np.float32(255), training=False)
    assert json.loads(result.stdout)["correct"] == int(np.sum(np.argmax(probabilities, 1) == labels[:30]))
    result = typed(f"run {both} --epochs 1 --run-dir {tmp_path}/other --checkpoint {tmp_path}/three.npz")
    assert result.exit_code == 1
    assert "three.npz" in result.stderr
