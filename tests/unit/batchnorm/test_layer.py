"""Our layer against Keras's own, TensorFlow's fused op and NumPy in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune.batchnorm.layer import BatchNorm

SHAPE = (4, 5, 3, 6)


def images(mean: float = 3.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (mean + rng.normal(size=SHAPE) * np.arange(1, 7)).astype(np.float32)


def pair(**switches):
    """Ours and the stock layer with the same random arrays."""
    ours, stock = (
        BatchNorm(momentum=0.9, epsilon=1e-3, **switches),
        keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-3),
    )
    rng = np.random.default_rng(1)
    for layer in (ours, stock):
        layer.build(SHAPE)
    for a, b in zip(ours.variables, stock.variables, strict=True):
        value = rng.uniform(0.5, 2.0, a.shape).astype(np.float32)
        a.assign(value)
        b.assign(value)
    return ours, stock


@pytest.mark.parametrize("training", [False, True])
def test_normalises_as_keras_does(training):
    ours, stock = pair()
    np.testing.assert_allclose(ours(images(), training=training), stock(images(), training=training), atol=2e-6)


def test_keras_update_feeds_the_population_variance():
    ours, stock = pair()
    for seed in range(3):
        ours(images(seed=seed), training=True)
        stock(images(seed=seed), training=True)
    for a, b in zip(ours.variables, stock.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_slim_update_feeds_n_over_n_minus_one():
    ours, _ = pair(unbiased=True)
    before = np.array(ours.moving_variance, np.float64)
    ours(images(), training=True)
    expected = 0.9 * before + 0.1 * images().astype(np.float64).var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(ours.moving_variance, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("statistics", "updates", "moves"), [("batch", True, True), ("batch", False, False), ("moving", True, False)]
)
def test_updates_only_where_both_switches_say_so(statistics, updates, moves):
    ours, stock = pair(statistics=statistics, updates=updates)
    before = np.array(ours.moving_mean)
    outputs = ours(images(), training=True)
    assert (not np.array_equal(before, ours.moving_mean)) is moves
    reference = stock(images(), training=statistics == "batch")
    np.testing.assert_allclose(outputs, reference, atol=2e-6)


def test_evaluation_by_batch_statistics_updates_nothing_and_keeps_the_moments():
    ours, _ = pair()
    before = [np.array(v) for v in ours.variables]
    ours.evaluation = "batch"
    outputs = ours(images(mean=1e4), training=False)
    for a, b in zip(before, ours.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    mean, variance, n = (np.asarray(m, np.float64) for m in ours.moments)
    x = images(mean=1e4).astype(np.float64)
    assert n == 4 * 5 * 3
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2)), rtol=1e-6)
    # Where E[x^2] - E[x]^2 in float32 gives 0 (sigma 1 on a mean of 1e4).
    np.testing.assert_allclose(variance, x.var(axis=(0, 1, 2)), rtol=1e-6)
    expected = (x - x.mean(axis=(0, 1, 2))) / np.sqrt(x.var(axis=(0, 1, 2)) + 1e-3)
    expected = expected * np.array(ours.gamma) + np.array(ours.beta)
    np.testing.assert_allclose(outputs, expected, atol=5e-3)


def test_without_gamma_and_beta_and_on_rank_two():
    ours = BatchNorm(scale=False, center=False, epsilon=0.001)
    x = np.random.default_rng(0).normal(2, 3, (50, 7)).astype(np.float32)
    outputs = ours(x, training=True)
    assert outputs.shape == (50, 7)
    np.testing.assert_allclose(outputs, (x - x.mean(0)) / np.sqrt(x.var(0) + 0.001), atol=1e-5)


@pytest.mark.parametrize("statistics", ["batch", "moving"])
def test_gradients_equal_the_stock_layers(statistics):
    ours, stock = pair(statistics=statistics)
    x = tf.constant(images())
    weight = tf.constant(np.random.default_rng(2).normal(size=SHAPE).astype(np.float32))
    gradients = []
    for layer, training in ((ours, True), (stock, statistics == "batch")):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=training) * weight)
        gradients.append(tape.gradient(loss, [x, layer.gamma.value, layer.beta.value]))
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_config_round_trip():
    layer = BatchNorm(statistics="moving", updates=False, unbiased=True, momentum=0.5, epsilon=0.01, scale=False)
    again = BatchNorm.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
