"""Features as they are computed, against Keras's own network on the same pixels."""

import keras
import numpy as np
import pytest

from finetune.batchnorm.surgery import adopt
from finetune.data.preprocessing import Preprocessing
from finetune.training.feature_cache.extraction import Network, batch_size


@pytest.mark.parametrize(("side", "images"), [(8, 128), (32, 128), (64, 128), (96, 32), (80, 64), (128, 32), (224, 32)])
def test_small_images_are_computed_in_larger_batches(side, images):
    assert batch_size(side) == images


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, pytest.param(40, marks=pytest.mark.slow)])
def test_features_are_those_of_keras(side):
    keras.utils.set_random_seed(0)
    stock = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(side, side, 3))
    rng = np.random.default_rng(0)
    for layer in stock.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            layer.set_weights([rng.uniform(low, 1, size) for low in (0.5, -0.5, -0.5, 0.5)])
    pixels = rng.integers(0, 256, (8, side, side, 3), np.uint8)
    unit = Preprocessing("unit", scale=1 / 255)
    network = Network(adopt(stock, unbiased=False), "moving", side, unit)
    expected = stock.predict(pixels / np.float32(255), verbose=0)
    found = network(pixels)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
