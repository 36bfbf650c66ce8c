"""Pooling against NumPy in float64; state restored whatever happens."""

import keras
import numpy as np
import pytest

from finetune.batchnorm import statistics
from finetune.batchnorm.layer import BatchNorm
from finetune.batchnorm.statistics import KerasSubject, Moments
from finetune.batchnorm.subject import kept
from finetune.batchnorm.surgery import adopt, bn_layers, to_stock


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(5, 3, name="first")(inputs)
    x = keras.layers.BatchNormalization(name="first_bn")(x)
    x = keras.layers.Dropout(0.5)(keras.layers.ReLU()(x))
    x = keras.layers.BatchNormalization(scale=False, name="second_bn")(keras.layers.Conv2D(4, 3)(x))
    return adopt(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)), unbiased=False)


def batches(sizes=(16, 16, 16)):
    x = np.random.default_rng(0).normal(1, 2, (48, 8, 8, 3)).astype(np.float32)
    ends = np.cumsum(sizes)
    return [x[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def random_moments(rng, channels=3):
    x = rng.normal(1e4, 1.0, (rng.integers(2, 40), channels))
    return x, Moments(len(x), x.mean(0), x.var(0))


def test_merge_equals_the_statistics_of_all_values_and_is_order_free():
    rng = np.random.default_rng(0)
    parts = [random_moments(rng) for _ in range(7)]
    everything = np.concatenate([x for x, _ in parts])
    for order in (parts, parts[::-1]):
        merged = order[0][1]
        for _, moments in order[1:]:
            merged = merged.merge(moments)
        assert merged.count == len(everything)
        np.testing.assert_allclose(merged.mean, everything.mean(0), rtol=1e-12)
        np.testing.assert_allclose(merged.variance, everything.var(0), rtol=1e-9)


def test_first_layer_equals_numpy_over_the_same_images_however_they_are_split(model):
    first = keras.Model(model.input, model.get_layer("first").output)
    inputs = np.concatenate([first(x).numpy() for x in batches()]).astype(np.float64)
    for sizes in ((16, 16, 16), (48,), (10, 30, 8)):
        with kept(KerasSubject(model)):
            pooled = statistics.recalibrate(KerasSubject(model), batches(sizes))
        np.testing.assert_allclose(pooled[0].mean, inputs.mean((0, 1, 2)), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(pooled[0].variance, inputs.var((0, 1, 2)), rtol=1e-6)
        assert pooled[0].count == 48 * 36


def test_recalibrating_makes_the_pooled_statistics_the_moving_ones(model):
    with kept(KerasSubject(model)):
        pooled = statistics.recalibrate(KerasSubject(model), batches())
        for layer, moments in zip(bn_layers(model), pooled, strict=True):
            np.testing.assert_array_equal(layer.moving_mean, moments.mean.astype(np.float32))
            np.testing.assert_array_equal(layer.moving_variance, moments.variance.astype(np.float32))


def test_kept_restores_also_after_an_interrupt(model):
    before = KerasSubject(model).snapshot()

    def interrupted():
        with kept(KerasSubject(model)):
            statistics.recalibrate(KerasSubject(model), batches())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    after = KerasSubject(model).snapshot()
    for name, (mean, variance) in before.items():
        np.testing.assert_array_equal(mean, after[name][0])
        np.testing.assert_array_equal(variance, after[name][1])


def test_batch_forward_is_free_of_dropout_and_moves_nothing(model):
    before = [np.array(v) for v in model.variables]
    run = statistics.forward(model, "batch")
    first, second = (run(batches()[0])[0].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(layer.evaluation == "moving" and layer.moments is None for layer in bn_layers(model))


def test_to_stock_gives_the_same_outputs_without_our_layer(model):
    stock = to_stock(model)
    assert not any(isinstance(layer, BatchNorm) for layer in stock.layers)
    x = batches()[0]
    np.testing.assert_allclose(stock(x, training=False), model(x, training=False), atol=1e-6)
    assert [layer.name for layer in stock.layers] == [layer.name for layer in model.layers]
