"""The loss against NumPy in float64, values and gradients; and against Keras's own focal loss and class_weight."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune.config import RunConfig
from finetune.evaluation.metrics import r_precision
from finetune.training.loop import optimizer as optimizers
from finetune.training.loop.losses import label_losses, losses
from finetune.training.loop.step import TrainStep

WEIGHTS = np.array([0.5, 2.0, 0.0, 7.0])
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (9, 4))
LABELS = np.arange(9) % 4
HARD = np.eye(4)[LABELS]
MIXED = 0.7 * HARD + 0.3 * HARD[::-1]


def config(**settings):
    return RunConfig("x", **settings)


def by_numpy(logits, shares, gamma, weights, smoothing):
    """(losses, gradient of their sum), float64, an image and a class at a time."""
    values, gradient = np.zeros(len(logits)), np.zeros(logits.shape)
    for row, z in enumerate(logits):
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        for own, share in enumerate(shares[row]):  # each class an image has a share of is an image of its own
            targets = (1 - smoothing) * np.eye(len(z))[own] + smoothing / len(z)
            for c, t in enumerate(targets):
                weight = share * weights[own] * t
                values[row] -= weight * (1 - p[c]) ** gamma * np.log(p[c])
                slope = gamma * (1 - p[c]) ** (gamma - 1) * p[c] * np.log(p[c]) - (1 - p[c]) ** gamma
                gradient[row] += weight * slope * (np.eye(len(z))[c] - p)
    return values, gradient


def both(logits, shares, of, weights=None):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        found = losses(logits, tf.constant(shares, tf.float32), of, weights)
    return found.numpy(), tf.cast(tape.gradient(found, logits), tf.float32).numpy()


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("gamma", [None, 0.5, 2.0])
def test_the_loss_is_numpys(gamma, smoothing, weights, dtype):
    of = config(label_smoothing=smoothing, **({} if gamma is None else {"loss": "focal", "focal_gamma": gamma}))
    given = tf.cast(tf.constant(LOGITS), dtype)
    exact = tf.cast(given, tf.float64).numpy()
    each = np.ones(4) if weights is None else weights
    for shares in (HARD, MIXED):
        values, gradient = by_numpy(exact, shares, gamma or 0.0, each, smoothing)
        found, slope = both(given, shares, of, weights)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, values, rtol=2e-5, atol=1e-6)
        # The gradient with respect to bfloat16 logits is rounded to bfloat16 at the end.
        np.testing.assert_allclose(slope, gradient, rtol=1e-5 if dtype == tf.float32 else 8e-3, atol=2e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_certain_and_hopeless_images_have_finite_gradients(gamma):
    logits = np.array([[1e4, 0, 0, 0], [-1e4, 0, 0, 0], [30, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    found, slope = both(logits, np.eye(4)[[0] * 4], config(loss="focal", focal_gamma=gamma))
    assert np.isfinite(found).all()
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[1], [-1, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)  # (1 - p) is 1: as cross-entropy
    np.testing.assert_allclose(found[[0, 1]], [0, 1e4 + np.log(3)], rtol=1e-6)


def test_it_is_keras_focal_loss():
    theirs = keras.losses.CategoricalFocalCrossentropy(
        alpha=1.0, gamma=2.0, from_logits=True, label_smoothing=0.1, reduction="none"
    )
    found, _ = both(LOGITS.astype(np.float32), HARD, config(loss="focal", focal_gamma=2.0, label_smoothing=0.1))
    expected = theirs(HARD.astype(np.float32), LOGITS.astype(np.float32)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def _line():
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    model.layers[-1].kernel.assign(np.random.default_rng(1).normal(size=(12, 4)))
    return model


@pytest.mark.parametrize("microbatch", [None, 4])
def test_a_step_is_that_of_keras_fit_with_class_weight(microbatch):
    """Divided by the images of the batch, not by the sum of their weights."""
    images = RNG.normal(size=(9, 2, 2, 3)).astype(np.float32)
    theirs, ours = _line(), _line()
    theirs.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    theirs.train_on_batch(images, LABELS, class_weight=dict(enumerate(WEIGHTS)))
    of = config(optimizer="sgd", learning_rate=0.1, weight_decay=0.0, schedule="constant", warmup=0.0, augment="none")
    of = dataclasses.replace(of, microbatch=microbatch)
    variables = ours.trainable_variables
    step = TrainStep(ours, optimizers.build(of, variables, steps=1), variables, of, class_weights=WEIGHTS)
    loss, _ = step.traced()(images, LABELS)
    for a, b in zip(theirs.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    values, _ = by_numpy(_line().predict(images, verbose=0).astype(float), HARD, 0.0, WEIGHTS, 0.0)
    assert float(loss) == pytest.approx(values.sum(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", ["cross-entropy", "focal"])
def test_several_labels_have_keras_binary_losses(loss, smoothing):
    targets = (RNG.random(LOGITS.shape) < 0.4).astype(np.float32)
    chosen = config(loss=loss, focal_gamma=2.0 if loss == "focal" else None, label_smoothing=smoothing)
    found = label_losses(tf.constant(LOGITS, tf.float32), tf.constant(targets), chosen)
    if loss == "focal" and smoothing:
        targets = targets * (1 - smoothing) + smoothing / 2
        p = 1 / (1 + np.exp(-LOGITS))
        terms = -targets * (1 - p) ** 2 * np.log(p) - (1 - targets) * p**2 * np.log(1 - p)
        expected = terms.mean(axis=1)
    else:
        kind = keras.losses.BinaryFocalCrossentropy if loss == "focal" else keras.losses.BinaryCrossentropy
        expected = kind(from_logits=True, label_smoothing=smoothing, reduction=None)(targets, LOGITS)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_the_weight_of_a_label_is_on_the_images_that_have_it():
    targets = (RNG.random(LOGITS.shape) < 0.4).astype(np.float32)
    found = label_losses(tf.constant(LOGITS, tf.float32), tf.constant(targets), config(), WEIGHTS)
    log = -np.logaddexp(0, [-LOGITS, LOGITS])
    expected = -(WEIGHTS * targets * log[0] + (1 - targets) * log[1]).mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_step_with_several_labels_is_that_of_keras():
    features = RNG.normal(size=(8, 5)).astype(np.float32)
    labels = (RNG.random((8, 3)) < 0.4).astype(np.uint8)
    models = [keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, kernel_initializer="ones")]) for _ in range(2)]
    models[1].compile(keras.optimizers.SGD(0.1), keras.losses.BinaryCrossentropy(from_logits=True))
    theirs = models[1].train_on_batch(features, labels)
    step = TrainStep(
        models[0], keras.optimizers.SGD(0.1), models[0].trainable_variables, config(), multi_label=True
    ).traced()
    loss, correct = step(tf.constant(features), tf.constant(labels))
    assert float(loss) / 8 == pytest.approx(float(theirs), rel=1e-5)
    logits = features @ np.ones((5, 3))
    assert float(correct) == pytest.approx(r_precision(logits, labels).sum(), rel=1e-6)
    for mine, other in zip(models[0].trainable_variables, models[1].trainable_variables, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
