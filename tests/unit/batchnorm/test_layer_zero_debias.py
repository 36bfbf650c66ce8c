"""The debiased moving mean against TensorFlow's `assign_moving_average`, and the counter that is nobody's weight."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.training import moving_averages

from finetune.batchnorm.layer import BatchNorm
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import kept
from finetune.batchnorm.surgery import BatchNormOptions, adopt, bn_layers, to_stock

SHAPE = (8, 3, 3, 4)


def images(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(rng.normal(0, 3, SHAPE[-1]), rng.uniform(0.1, 4, SHAPE[-1]), SHAPE).astype(np.float32)


def layer(**switches) -> BatchNorm:
    """Ours with random moving statistics, as of a pretrained network."""
    made = BatchNorm(**{"momentum": 0.97, "zero_debias": True, **switches})
    made.build(SHAPE)
    rng = np.random.default_rng(7)
    for variable in made.weights:
        variable.assign(rng.uniform(0.5, 2.0, variable.shape))
    return made


def tensorflows(start: np.ndarray, values: list[np.ndarray], decay: float, *, zero_debias: bool) -> list[np.ndarray]:
    """What TensorFlow's moving average is after each of `values`."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable("moving", initializer=start)
        value = tf.compat.v1.placeholder(tf.float32, start.shape)
        update = moving_averages.assign_moving_average(variable, value, decay, zero_debias=zero_debias)
        session.run(tf.compat.v1.global_variables_initializer())
        found = []
        for one in values:
            session.run(update, {value: one})
            found.append(session.run(variable))
    return found


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.997])
def test_the_mean_is_tensorflows_and_the_variance_keeps_its_start(decay):
    ours = layer(momentum=decay, unbiased=True)
    batches = [images(seed) for seed in range(12)]
    mean, variance = (np.array(array) for array in (ours.moving_mean, ours.moving_variance))
    means = tensorflows(mean, [batch.mean((0, 1, 2)) for batch in batches], decay, zero_debias=True)
    fed = [batch.astype(np.float64).var((0, 1, 2), ddof=1).astype(np.float32) for batch in batches]
    variances = tensorflows(variance, fed, decay, zero_debias=False)
    for batch, expected_mean, expected_variance in zip(batches, means, variances, strict=True):
        ours(batch, training=True)
        np.testing.assert_allclose(ours.moving_mean, expected_mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours.moving_variance, expected_variance, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.9, 0.9997])
def test_nothing_of_the_start_is_left_after_one_update(decay):
    ends = []
    for start in (0.0, 1e6):
        ours = layer(momentum=decay)
        ours.moving_mean.assign(np.full(SHAPE[-1], start))
        ours(images(0), training=True)
        ends.append(np.array(ours.moving_mean))
    np.testing.assert_array_equal(*ends)
    np.testing.assert_allclose(ends[0], images(0).mean((0, 1, 2)), rtol=1e-5)


def test_the_mean_of_the_batches_weighted_by_the_decay():
    ours, decay = layer(momentum=0.9997), 0.9997
    seen = [images(seed).astype(np.float64).mean((0, 1, 2)) for seed in range(40)]
    for seed in range(40):
        ours(images(seed), training=True)
    weights = decay ** np.arange(40)[::-1]
    np.testing.assert_allclose(ours.moving_mean, np.average(seen, axis=0, weights=weights), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("switches", [{"statistics": "moving"}, {"statistics": "moving", "renormalise": True}])
def test_frozen_statistics_are_not_touched(switches):
    ours, plain = layer(**switches), layer(statistics="moving", zero_debias=False)
    np.testing.assert_array_equal(ours(images(1), training=True), plain(images(1), training=True))
    for a, b in zip(ours.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(ours.local_step) == 0


@pytest.mark.parametrize("renorm", [False, True])
def test_without_updates_nothing_moves(renorm):
    ours = layer(updates=False, renormalise=renorm)
    before = [np.array(variable) for variable in ours.weights]
    ours(images(1), training=True)
    for a, b in zip(before, ours.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE[1:])
    x = keras.layers.BatchNormalization(name="first")(inputs)
    x = keras.layers.Conv2D(5, 3, name="conv")(x)
    return keras.Model(inputs, keras.layers.BatchNormalization(name="second")(x))


@pytest.mark.slow
@pytest.mark.parametrize("switches", [{"renorm": True}, {"zero_debias": True}, {"renorm": True, "zero_debias": True}])
def test_the_counter_is_a_runs_and_no_weight(switches, tmp_path):
    stock = network()
    rng = np.random.default_rng(0)
    for variable in stock.variables:
        variable.assign(rng.uniform(0.5, 2, variable.shape))
    ours = adopt(stock, unbiased=True, options=BatchNormOptions(**switches))
    assert len(ours.weights) == len(stock.weights) == len(ours.variables) - 2
    for batch in range(3):
        ours(images(batch), training=True)
    assert [int(layer.local_step) for layer in bn_layers(ours)] == [3, 3]
    with kept(KerasSubject(ours)):
        ours(images(4), training=True)
    again = to_stock(ours)
    again.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert all(type(layer).__module__.startswith("keras.") for layer in loaded.layers)
    assert [variable.path for variable in loaded.variables] == [variable.path for variable in stock.variables]
    np.testing.assert_allclose(loaded(images(5)), ours(images(5), training=False), rtol=1e-5, atol=1e-6)
    anew = adopt(loaded, unbiased=True, options=BatchNormOptions(**switches))
    assert [int(layer.local_step) for layer in bn_layers(anew)] == [0, 0]


def test_keras_own_renorm_is_not_carried_over():
    inputs = keras.Input(SHAPE[1:])
    stock = keras.Model(inputs, keras.layers.BatchNormalization(renorm=True, renorm_clipping={"rmax": 3.0})(inputs))
    rng = np.random.default_rng(0)
    for variable in stock.variables:
        variable.assign(rng.uniform(0.5, 2, variable.shape))
    ours = adopt(stock, unbiased=False, options=BatchNormOptions(renorm=True))
    again = to_stock(ours)
    for model in (ours, again):
        np.testing.assert_allclose(model(images(0)), stock(images(0)), rtol=1e-5, atol=1e-5)
    assert not again.layers[1].renorm
    assert len(again.variables) == len(ours.weights) == 4
