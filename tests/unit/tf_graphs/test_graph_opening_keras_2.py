"""SavedModels of Keras 2's `model.save` and `model.export` give what Keras 2 gives, in both modes."""

import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from checkpoints.formats.keras_metadata import recorded
from finetune.evaluation.evaluator import count
from finetune.tf_graphs import open_exported

layers = tf_keras.layers
SIDE, COUNT = 12, 16
RNG = np.random.default_rng(0)
PIXELS = RNG.uniform(0, 255, (COUNT, SIDE, SIDE, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, COUNT)


def disturbed(model):
    """`model` with moving statistics and gammas that are not the initial ones."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.dtype.is_floating and "kernel" not in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def body(x, norm=layers.BatchNormalization, **options):
    for number in (4, 5):
        x = layers.ReLU()(norm(**options)(layers.Conv2D(number, 3)(x)))
    return layers.GlobalAveragePooling2D()(x)


def compared(subject, reference, moving_loss):
    """Both modes equal the model of Keras 2, whose own `evaluate` gives `moving_loss`: (loss, accuracy)."""
    logits, _ = subject.forward("moving")(PIXELS)
    found = count(np.asarray(logits), LABELS, per_label=subject.per_label)
    assert (found.loss, found.accuracy) == pytest.approx(moving_loss, abs=1e-5)
    batch, measured = subject.forward("batch")(PIXELS)
    kept = [variable.numpy() for variable in reference.variables]
    expected = np.asarray(reference(PIXELS, training=True), np.float64)
    for variable, value in zip(reference.variables, kept, strict=True):
        variable.assign(value)
    given = np.exp(np.asarray(batch, np.float64))
    given = given / given.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(given[:, -expected.shape[1] :], expected, atol=2e-6)
    return [n for _, _, n in measured]


def evaluated(model, loss="sparse_categorical_crossentropy"):
    model.compile(loss=loss, metrics=["accuracy"])
    return model.evaluate(PIXELS, LABELS, batch_size=COUNT, verbose=0)


@pytest.fixture(scope="module")
def augmented(tmp_path_factory):
    """Augmentation of several kinds, `preprocess_input` between layers, SyncBatchNormalization, a softmax."""
    given = tf_keras.Input((SIDE, SIDE, 3))
    x = tf_keras.applications.mobilenet_v2.preprocess_input(given)
    x = body(x, layers.experimental.SyncBatchNormalization, momentum=0.9)
    plain = disturbed(tf_keras.Model(given, layers.Dense(3, activation="softmax")(x)))
    images = tf_keras.Input((SIDE, SIDE, 3))
    x = layers.RandomFlip("horizontal")(images)
    x = layers.RandomCrop(SIDE, SIDE)(layers.RandomContrast(0.1)(layers.RandomZoom(0.1)(x)))
    model = tf_keras.Model(images, plain(x))
    path = tmp_path_factory.mktemp("augmented") / "model"
    expected = evaluated(model)
    model.save(path, save_format="tf")
    return plain, path, expected


@pytest.mark.slow
def test_augmentation_stays_out_and_synchronised_batchnorm_averages_over_the_map(augmented):
    plain, path, expected = augmented
    subject = open_exported(path)
    sizes = compared(subject, plain, expected)
    assert sizes == [COUNT * 10 * 10, COUNT * 8 * 8]  # not COUNT
    assert subject.facts.scales_pixels
    assert subject.facts.trained_with is None
    assert recorded(path).momenta == (0.9, 0.9)


@pytest.mark.slow
def test_a_recalibrated_copy_is_loaded_by_keras_2(augmented, tmp_path):
    _, path, _ = augmented
    subject = open_exported(path)
    new = {name: (mean + 1, variance * 2) for name, (mean, variance) in subject.snapshot().items()}
    subject.restore(new)
    subject.write(tmp_path / "copy")
    for name in ("saved_model.pb", "keras_metadata.pb"):
        assert (tmp_path / "copy" / name).read_bytes() == (path / name).read_bytes()
    before, after = (tf.train.load_checkpoint(str(one / "variables/variables")) for one in (path, tmp_path / "copy"))
    names = before.get_variable_to_shape_map()
    changed = [name for name in names if not np.array_equal(before.get_tensor(name), after.get_tensor(name))]
    assert after.get_variable_to_shape_map() == names
    assert len(changed) == 4
    model = tf_keras.models.load_model(tmp_path / "copy")
    logits, _ = subject.forward("moving")(PIXELS)
    np.testing.assert_allclose(model(PIXELS, training=False), tf.nn.softmax(logits), atol=2e-6)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(PIXELS, LABELS, batch_size=COUNT, verbose=0)
    found = count(np.asarray(logits), LABELS)
    assert (found.loss, found.accuracy) == pytest.approx((loss, accuracy), abs=1e-5)


class Subclassed(tf_keras.Model):
    """Python code calls its layers, the first BatchNorm as `training=False`; one sigmoid."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Conv2D(4, 3), layers.Conv2D(4, 3)
        self.frozen, self.normal = layers.BatchNormalization(), layers.BatchNormalization(scale=False)
        self.head = layers.Dense(1, activation="sigmoid")

    def call(self, x, training=None):
        x = tf.nn.relu(self.frozen(self.first(x / 255.0), training=False))
        x = tf.nn.relu(self.normal(self.second(x), training=training))
        return self.head(tf.reduce_mean(x, [1, 2]))


@pytest.mark.slow
def test_layers_that_keep_their_statistics_in_training_are_said_and_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "LABELS", LABELS % 2)
    model = Subclassed()
    model(PIXELS)
    expected = evaluated(disturbed(model), "binary_crossentropy")
    model.save(tmp_path / "model", save_format="tf")
    subject = open_exported(tmp_path / "model")
    assert compared(subject, model, expected) == [COUNT * 8 * 8]
    assert [layer.name for layer in subject.layers] == ["batch_normalization_1"] or len(subject.layers) == 1
    assert any(
        line.startswith("1 of 2 BN layers normalise by their moving statistics in training too")
        for line in subject.lines
    )
    assert subject.outputs == 2
    model.export(tmp_path / "exported")  # has no call for training: every layer is switched
    assert len(open_exported(tmp_path / "exported").layers) == 2


@pytest.mark.slow
def test_a_base_that_is_called_in_inference_mode_was_trained_as_it_is_evaluated(tmp_path):
    given, images = tf_keras.Input((SIDE, SIDE, 3)), tf_keras.Input((SIDE, SIDE, 3))
    base = disturbed(tf_keras.Model(given, body(given), name="base"))
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        out = layers.Dense(3, activation="softmax", dtype="float32")(base(images, training=False))
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    model = tf_keras.Model(images, out)
    expected = evaluated(model)
    model.save(tmp_path / "model", save_format="tf")
    subject = open_exported(tmp_path / "model")
    logits, _ = subject.forward("moving")(PIXELS)
    found = count(np.asarray(logits), LABELS)
    assert (found.loss, found.accuracy) == pytest.approx(expected, abs=1e-5)
    assert subject.facts.trained_with == "moving"
    assert any("with batch statistics it is another model" in line for line in subject.lines)


def test_what_has_no_batchnorm_names_its_class_and_the_version_that_saved_it(tmp_path):
    tf_keras.Sequential([tf_keras.Input((SIDE, SIDE, 3)), layers.Flatten(), layers.Dense(3)]).save(
        tmp_path / "model", save_format="tf"
    )
    words = rf"a Sequential model saved by TensorFlow {tf.__version__}\) has no BatchNormalization"
    subject = open_exported(tmp_path / "model")
    assert not subject.layers
    assert any(re.search(words, line) for line in subject.lines)
