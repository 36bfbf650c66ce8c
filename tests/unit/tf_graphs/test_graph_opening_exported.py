"""SavedModels that only infer: examined by their graph, proved against the Keras model they were exported from."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from checkpoints.errors import CheckpointError
from finetune.backbone.outputs import as_logits
from finetune.batchnorm.flatten import flat
from finetune.batchnorm.scores import SUMS
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import kept
from finetune.batchnorm.surgery import adopt
from finetune.data.batches import EvalSet
from finetune.data.dataset import Split
from finetune.data.preprocessing import find_preprocessing
from finetune.diagnosis.measure import examine
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.verdict import judge
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation.evaluator import Evaluator, count
from finetune.tf_graphs import open_exported, takes_training

SIDE, CLASSES = 12, 4


def pictures(count, seed):
    """Images of four colours in noise, uint8, and their classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    colours = np.array([[110, 128, 140], [140, 128, 110], [128, 145, 128], [128, 110, 128]])
    images = colours[labels][:, None, None] + random.normal(0, 40, (count, SIDE, SIDE, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels.astype(np.int64)


def block(name):
    given = keras.Input((None, None, 6))
    x = keras.layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv")(given)
    x = keras.layers.BatchNormalization(momentum=0.999, name="bn")(x)
    return keras.Model(given, keras.layers.ReLU()(x), name=name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(the Keras model, where it was exported): decay so high that the statistics lag."""
    keras.utils.set_random_seed(3)
    given = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(given)
    x = keras.layers.Conv2D(6, 3, name="stem")(x)
    x = keras.layers.BatchNormalization(momentum=0.999, epsilon=1e-4, name="stem_bn")(x)
    x = block("first")(x)
    x = keras.layers.Dropout(0.2)(block("second")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.BatchNormalization(momentum=0.999, scale=False, center=False, name="last_bn")(x)
    model = keras.Model(given, keras.layers.Dense(CLASSES, activation="softmax")(x))
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    images, labels = pictures(512, 0)
    model.fit(images.astype(np.float32), labels, batch_size=32, epochs=3, verbose=0)
    path = tmp_path_factory.mktemp("exported") / "model"
    model.export(path, verbose=False)
    return model, path


def data(count, seed):
    images, labels = pictures(count, seed)
    return EvalSet(Split(images, labels), image_size=SIDE, preprocessing=find_preprocessing("raw"), batch_size=50)


@pytest.mark.slow
def test_both_accuracies_and_the_cause_are_those_of_the_keras_model(trained):
    model, path = trained
    ours = open_exported(path)
    theirs = KerasSubject(adopt(as_logits(flat(model), name="model").model, unbiased=False))
    test = data(300, 1)
    found, expected = (
        {way: Evaluator(one).evaluate(test.batches(), way) for way in ("moving", "batch")} for one in (ours, theirs)
    )
    images, labels = pictures(300, 1)
    predicted = model.predict(images.astype(np.float32), verbose=0).argmax(-1)
    assert round(found["moving"].accuracy * 300) == (predicted == labels).sum()
    assert found["moving"].accuracy != found["batch"].accuracy
    assert found["batch"].accuracy == expected["batch"].accuracy
    assert found["batch"].loss == pytest.approx(expected["batch"].loss, rel=1e-4)
    evidence = [examine(one, test=test, train=data(200, 2), extent="quick") for one in (ours, theirs)]
    causes = [judge(one, Commands("model")).cause for one in evidence]
    assert causes[0] == causes[1]
    assert causes[0] != "healthy"
    assert [layer.name for layer in ours.layers] == ["stem_bn", "first_1/bn_1", "second_1/bn_1", "last_bn"]
    assert [layer.epsilon for layer in ours.layers] == [1e-4, 1e-3, 1e-3, 1e-3]
    assert ours.facts.scales_pixels


@pytest.mark.slow
def test_moments_are_those_of_numpy_and_restoring_leaves_the_model_as_it_was(trained):
    model, path = trained
    subject = open_exported(path)
    images = pictures(40, 4)[0].astype(np.float32)
    before = subject.forward("moving")(images)[0]
    stem = keras.Model(model.input, model.get_layer("stem").output).predict(images, verbose=0).astype(np.float64)
    _, moments = subject.forward("batch")(images)
    mean, variance, count = moments[0]
    np.testing.assert_allclose(mean, stem.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(variance, stem.var((0, 1, 2)), rtol=1e-5)
    assert count == stem[..., 0].size
    assert moments[3][2] == 40
    with kept(subject):
        subject.restore({name: (mean + 1, variance * 2) for name, (mean, variance) in subject.snapshot().items()})
        assert not np.allclose(subject.forward("moving")(images)[0], before)
    np.testing.assert_array_equal(subject.forward("moving")(images)[0], before)


def test_a_recalibrated_copy_predicts_as_recalibrated_and_keeps_every_other_tensor(trained, tmp_path):
    _, path = trained
    subject = open_exported(path)
    images = pictures(60, 5)[0].astype(np.float32)
    _, moments = subject.forward("batch")(images)
    layers = [layer.name for layer in subject.layers]
    subject.restore({name: (mean, variance) for name, (mean, variance, _) in zip(layers, moments, strict=True)})
    out = tmp_path / "copy"
    subject.write(out)
    expected = tf.nn.softmax(subject.forward("moving")(images)[0]).numpy()
    loaded = tf.saved_model.load(str(out))
    np.testing.assert_allclose(loaded.serve(images).numpy(), expected, atol=1e-5)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:  # what TensorFlow Serving restores
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(out)).signature_def["serving_default"]
        (given,), (output,) = graph.inputs.values(), graph.outputs.values()
        np.testing.assert_allclose(session.run(output.name, {given.name: images}), expected, atol=1e-5)
    old, new = (tf.train.load_checkpoint(str(one / "variables" / "variables")) for one in (path, out))
    assert old.get_variable_to_shape_map() == new.get_variable_to_shape_map()
    differ = [
        key
        for key in old.get_variable_to_shape_map()
        if np.asarray(old.get_tensor(key)).tobytes() != np.asarray(new.get_tensor(key)).tobytes()
    ]
    assert len(differ) == 2 * 2 * len(layers)
    with pytest.raises(Exception, match="already there"):
        subject.write(out)
    assert [one.name for one in tmp_path.iterdir()] == ["copy"]


class _Normalised(tf.Module):
    """A fused and a hand-written normalisation by moving statistics, channels first in the second."""

    def __init__(self):
        super().__init__()
        random = np.random.default_rng(0)
        self.kernel = tf.Variable(random.normal(size=(3, 3, 3, 5)).astype(np.float32))
        self.mean, self.variance = tf.Variable(tf.zeros(5)), tf.Variable(tf.ones(5))
        self.mean2, self.variance2 = tf.Variable(tf.zeros(5)), tf.Variable(tf.ones(5))
        self.dense = tf.Variable(random.normal(size=(5, CLASSES)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec((None, SIDE, SIDE, 3))])
    def __call__(self, images):
        x = tf.nn.conv2d(images, self.kernel, 1, "SAME")
        one = tf.ones(5)
        x = tf.compat.v1.nn.fused_batch_norm(
            x, one, one, mean=self.mean, variance=self.variance, epsilon=1e-3, is_training=False
        )[0]
        x = tf.transpose(tf.nn.relu(x), (0, 3, 1, 2))
        mean, variance = (tf.reshape(one, (1, 5, 1, 1)) for one in (self.mean2, self.variance2))
        x = (x - mean) / tf.sqrt(variance + 1e-3)
        return tf.reduce_mean(x, (2, 3)) @ self.dense


def test_other_forms_than_keras_writes(tmp_path):
    module = _Normalised()
    tf.saved_model.save(module, str(tmp_path / "m"))
    assert not takes_training(tmp_path / "m")
    subject = open_exported(tmp_path / "m")
    images = np.random.default_rng(1).normal(size=(20, SIDE, SIDE, 3)).astype(np.float32)
    np.testing.assert_allclose(subject.forward("moving")(images)[0], module(images), atol=1e-5)
    x = tf.nn.conv2d(images, module.kernel, 1, "SAME").numpy().astype(np.float64)
    first = (x.mean((0, 1, 2)), x.var((0, 1, 2)))
    x = np.maximum((x - first[0]) / np.sqrt(first[1] + 1e-3) + 1, 0)
    second = (x.mean((0, 1, 2)), x.var((0, 1, 2)))
    x = (x - second[0]) / np.sqrt(second[1] + 1e-3)
    logits, moments = subject.forward("batch")(images)
    np.testing.assert_allclose(logits, x.mean((1, 2)) @ module.dense.numpy(), atol=1e-4)
    for (mean, variance, n), (a, b) in zip(moments, (first, second), strict=True):
        np.testing.assert_allclose(mean, a, atol=1e-5)
        np.testing.assert_allclose(variance, b, rtol=1e-4)
        assert n == 20 * SIDE * SIDE


class _Harmful(tf.Module):
    def __init__(self, harm):
        super().__init__()
        self.mean, self.variance, self.harm = tf.Variable(tf.zeros(3)), tf.Variable(tf.ones(3)), harm

    @tf.function(input_signature=[tf.TensorSpec((None, SIDE, SIDE, 3))])
    def __call__(self, images):
        x = tf.nn.batch_normalization(images, self.mean, self.variance, None, None, 1e-3)
        return tf.reduce_mean(self.harm(x), (1, 2))


def _reads(x):
    return x + tf.cast(tf.strings.length(tf.io.read_file("/does/not/exist")), tf.float32)


def _calls(x):
    return tf.ensure_shape(tf.numpy_function(lambda value: value, [x], tf.float32), x.shape)


@pytest.mark.parametrize(("harm", "words"), [(_reads, "operation ReadFile .* reads a file"), (_calls, "Python code")])
def test_what_does_more_than_compute_is_refused_by_name_and_not_run(tmp_path, monkeypatch, harm, words):
    tf.saved_model.save(_Harmful(harm), str(tmp_path / "m"))

    def loaded(*_args, **_kwargs):
        raise AssertionError("loaded before it was looked at")

    monkeypatch.setattr(tf.saved_model, "load", loaded)
    with pytest.raises(FinetuneError, match=words):
        open_exported(tmp_path / "m")


def test_what_cannot_be_examined_is_said(trained, tmp_path):
    given = keras.Input((SIDE, SIDE, 3))
    plain = keras.Model(given, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(given)))
    plain.export(tmp_path / "plain", verbose=False)
    assert any("no BatchNormalization that can be reached" in line for line in open_exported(tmp_path / "plain").lines)
    relu = keras.layers.Dense(2, activation="relu")(
        keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(given))
    )
    keras.Model(given, relu).export(tmp_path / "relu", verbose=False)
    with pytest.raises(FinetuneError, match="ends in Relu"):
        open_exported(tmp_path / "relu")
    _, path = trained
    shutil.copytree(path, tmp_path / "cut")
    content = (path / "saved_model.pb").read_bytes()
    (tmp_path / "cut" / "saved_model.pb").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"saved_model\.pb is damaged or cut off"):
        open_exported(tmp_path / "cut")


ENDS = {
    "softmax, then a shape": lambda z: tf.reshape(tf.nn.softmax(tf.reshape(z, [-1, 1, CLASSES])), [-1, CLASSES]),
    "softmax, then a type": lambda z: tf.cast(tf.nn.softmax(tf.cast(z, tf.float64)), tf.float32),
    "mean of softmaxes": lambda z: (tf.nn.softmax(z) + tf.nn.softmax(2.0 * z)) / 2.0,
    "softmax written out": lambda z: tf.exp(z) / tf.reduce_sum(tf.exp(z), -1, keepdims=True),
    "log-softmax": tf.nn.log_softmax,
    "logits": lambda z: z * 0.5,
}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_the_loss_is_that_of_the_probabilities_whatever_they_are_made_of(end, tmp_path):
    module = tf.Module()
    module.w = tf.Variable(np.random.default_rng(0).normal(size=(3, CLASSES)).astype(np.float32))
    given = tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32)
    call = tf.function(lambda x: ENDS[end](tf.reduce_mean(x, [1, 2]) / 50.0 @ module.w), input_signature=[given])
    tf.saved_model.save(module, str(tmp_path / "model"), call)
    images, labels = pictures(40, 0)
    outputs = call(images.astype(np.float32)).numpy()
    chances = tf.nn.softmax(outputs).numpy() if end in ("log-softmax", "logits") else outputs
    expected = keras.losses.sparse_categorical_crossentropy(labels, chances)
    subject = open_exported(tmp_path / "model")
    found = count(np.asarray(subject.forward("moving")(images.astype(np.float32))[0]), labels)
    assert found.loss == pytest.approx(float(np.mean(expected)), abs=1e-5)
    assert (SUMS in subject.lines) == (end == "softmax written out")


def test_one_of_several_outputs_is_chosen_by_its_name(tmp_path):
    given = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(given)))
    coarse = keras.layers.Dense(2, activation="softmax")(x)
    model = keras.Model(given, {"coarse": coarse, "fine": keras.layers.Dense(CLASSES, activation="softmax")(x)})
    model.export(tmp_path / "model", verbose=False)
    with pytest.raises(FinetuneError, match=r"gives 2 outputs: coarse \[\?, 2\], fine \[\?, 4\]; choose one with"):
        open_exported(tmp_path / "model")
    with pytest.raises(WrongUse, match="has no such output: expected one of coarse, fine"):
        open_exported(tmp_path / "model", "middle")
    images = pictures(10, 0)[0].astype(np.float32)
    for name in ("coarse", "fine"):
        logits, _ = open_exported(tmp_path / "model", name).forward("moving")(images)
        np.testing.assert_allclose(tf.nn.softmax(logits), model(images, training=False)[name], atol=1e-6)
