"""BatchNorm folded into weights, against convolutions written out in NumPy, in float64."""

from typing import Any

import keras
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from finetune.inference.export.folding import affine, fold, folded_weights


def convolved(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """`[batch, h, w, in]` with `[kh, kw, in, out]`, stride 1 and VALID."""
    windows = sliding_window_view(images, kernel.shape[:2], axis=(1, 2))  # [b, h', w', in, kh, kw]
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel)


def depthwise(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    windows = sliding_window_view(images, kernel.shape[:2], axis=(1, 2))
    out = np.einsum("bhwcij,ijcm->bhwcm", windows, kernel)
    return out.reshape(*out.shape[:3], -1)


def normalised(x: np.ndarray, norm: Any) -> np.ndarray:
    """BatchNorm as the paper writes it, in float64."""
    mean, variance, gamma, beta = (
        np.asarray(one, np.float64) for one in (norm.moving_mean, norm.moving_variance, norm.gamma, norm.beta)
    )
    return gamma * (x - mean) / np.sqrt(variance + norm.epsilon) + beta


def norm_of(channels: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    norm = keras.layers.BatchNormalization(epsilon=1.1e-5)
    norm.build((None, channels))
    norm.gamma.assign(rng.uniform(-2, 2, channels))
    norm.beta.assign(rng.normal(0, 1, channels))
    norm.moving_mean.assign(rng.normal(0, 3, channels))
    norm.moving_variance.assign(rng.uniform(1e-4, 4, channels))
    return norm


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D", "Dense"])
def test_folded_weights_compute_the_same_in_float64(kind: str, bias: bool) -> None:
    rng = np.random.default_rng(1)
    shape, channels = {"Conv2D": ((3, 2, 4, 5), 5), "DepthwiseConv2D": ((3, 3, 4, 2), 8), "Dense": ((4, 6), 6)}[kind]
    kernel, summand = rng.normal(0, 1, shape), rng.normal(0, 1, channels) if bias else None
    images = rng.normal(0, 1, (2, 7, 6, 4))
    compute = {"Conv2D": convolved, "DepthwiseConv2D": depthwise, "Dense": np.matmul}[kind]
    norm = norm_of(channels)
    before = normalised(compute(images, kernel) + (0 if summand is None else summand), norm)
    new_kernel, new_bias = folded_weights(kind, kernel, summand, *affine(norm))
    after = compute(images, new_kernel) + new_bias
    assert np.abs(after - before).max() <= 1e-12 * np.abs(before).max()


def randomise(model: keras.Model) -> None:
    rng = np.random.default_rng(3)
    for layer in model.layers:
        for variable in layer.weights:
            positive = variable.name in ("moving_variance", "gamma")
            variable.assign(rng.uniform(0.3, 2, variable.shape) if positive else rng.normal(0, 0.3, variable.shape))


def every_kind() -> keras.Model:
    """BatchNorm after all that takes it in, and in three places where nothing does."""
    layers = keras.layers
    images = keras.Input((9, 9, 3))
    x = layers.BatchNormalization(name="first")(images)  # after the input
    x = layers.BatchNormalization(name="a")(layers.Conv2D(6, 3, use_bias=False, padding="same")(x))
    x = layers.BatchNormalization(name="b", scale=False)(layers.DepthwiseConv2D(3, depth_multiplier=2)(x))
    x = layers.BatchNormalization(name="c", center=False)(layers.SeparableConv2D(5, 3)(x))
    x = layers.BatchNormalization(name="d")(layers.Conv2DTranspose(4, 3, strides=2)(x))
    shared = layers.Conv2D(4, 1, name="used_twice")(x)
    x = layers.Add()([layers.BatchNormalization(name="twice")(shared), shared])
    x = layers.BatchNormalization(name="active")(layers.Conv2D(4, 1, activation="relu")(x))
    x = layers.Dense(7)(layers.GlobalAveragePooling2D()(x))
    x = layers.BatchNormalization(name="e")(x)
    return keras.Model(images, layers.Dense(3)(layers.ReLU()(x / 2.0)))


def test_a_model_with_every_kind_computes_the_same() -> None:
    model = every_kind()
    randomise(model)
    folded = fold(model)
    assert (folded.into_weights, folded.multiply_adds, folded.left) == (5, 3, ())
    assert not [one for one in folded.model.layers if isinstance(one, keras.layers.BatchNormalization)]
    images = np.random.default_rng(4).normal(0, 1, (5, 9, 9, 3)).astype(np.float32)
    before, after = (np.asarray(one(images, training=False)) for one in (model, folded.model))
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()
    # The model itself is as it was, and folds the same a second time.
    again = np.asarray(fold(model).model(images, training=False))
    assert np.array_equal(again, after)
    assert len([one for one in model.layers if isinstance(one, keras.layers.BatchNormalization)]) == 8


def test_batchnorm_over_another_axis_stays() -> None:
    images = keras.Input((4, 4, 3))
    x = keras.layers.BatchNormalization(axis=1, name="rows")(keras.layers.Conv2D(2, 1)(images))
    model = keras.Model(images, keras.layers.Flatten()(x))
    randomise(model)
    folded = fold(model)
    assert folded.left == ("rows",)
    values = np.random.default_rng(5).normal(0, 1, (2, 4, 4, 3)).astype(np.float32)
    assert np.allclose(model(values, training=False), folded.model(values, training=False), atol=1e-6)
