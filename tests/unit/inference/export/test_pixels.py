"""Resizing and preprocessing in a graph, against Pillow, `tf.image` and the preprocessing itself."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from finetune.data import decoding
from finetune.data.geometry import Geometry
from finetune.data.preprocessing import CustomPreprocessing, PerImage, find_preprocessing, from_numbers, suspects
from finetune.errors import FinetuneError
from finetune.inference.export import pixels
from finetune.text import ImageShape


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width", "side"), [(50, 50, 32), (40, 75, 64), (33, 100, 20), (64, 64, 64)])
def test_photos_are_pillows_but_for_rounding(height: int, width: int, side: int) -> None:
    image = noise(height, width)
    pillow = decoding.centre(Image.fromarray(image), (side, side)).astype(int)
    graph = pixels.resized(tf.constant(image[None]), ImageShape(side, side), photos=True).numpy()[0]
    apart = np.abs(graph - pillow)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01


AREA = [Geometry(fraction=0.875), Geometry("squash"), Geometry("squash", 0.9), Geometry("pad"), Geometry("pad", 0.8)]
EXACT = [Geometry("squash", 0.875, "slim"), Geometry("crop", 0.875, "slim"), Geometry("squash", 1, "keras")]
EXACT += [Geometry("crop", 1, "keras")]


@pytest.mark.quick_cases(9)
@pytest.mark.parametrize("geometry", [*AREA, *EXACT], ids=repr)
@pytest.mark.parametrize("shape", [(50, 50), (37, 91), (80, 41)])
def test_every_geometry_of_evaluation_is_that_of_a_graph(geometry: Geometry, shape: tuple[int, int]) -> None:
    image = noise(*shape)
    expected = decoding.centre(Image.fromarray(image), (32, 24), geometry)
    graph = tf.function(
        lambda images: pixels.resized(images, ImageShape(32, 24), photos=True, geometry=geometry),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
    )
    apart = np.abs(graph(image[None])[0] - expected.astype(np.float32))
    assert apart.max() <= (2e-3 if geometry.exact else 1)


@pytest.mark.parametrize("geometry", [Geometry("squash"), Geometry("crop", 1, "keras"), Geometry("squash", 1, "keras")])
def test_keras_layers_crop_and_resize_in_the_same_way(geometry: Geometry) -> None:
    images = keras.Input((None, None, 3), dtype="uint8")
    raw = find_preprocessing("raw")
    model = keras.Model(images, pixels.layers(images, ImageShape(24, 24), raw, native=None, geometry=geometry))
    image = noise(37, 91)
    expected = decoding.centre(Image.fromarray(image), (24, 24), geometry)
    assert np.abs(np.asarray(model(image[None]))[0] - expected).max() <= (2e-3 if geometry.exact else 1)


def test_slims_pixels_are_refused_where_no_stock_layer_makes_them() -> None:
    with pytest.raises(FinetuneError, match="no stock layer of Keras resizes as --eval-recipe has it"):
        pixels.layers(
            keras.Input((None, None, 3), dtype="uint8"), ImageShape(24, 24), find_preprocessing("raw"), native=None,
            geometry=EXACT[0],
        )  # fmt: skip


def test_photos_higher_than_wide_differ_by_one_at_most() -> None:
    image = noise(75, 50)
    pillow = decoding.centre(Image.fromarray(image), (32, 32)).astype(int)
    assert (
        np.abs(pixels.resized(tf.constant(image[None]), ImageShape(32, 32), photos=True).numpy()[0] - pillow).max() <= 1
    )


@pytest.mark.parametrize(("height", "width", "side"), [(32, 32, 64), (32, 32, 20), (40, 30, 35), (96, 64, 96)])
def test_images_in_memory_are_tf_images(height: int, width: int, side: int) -> None:
    images = np.stack([noise(height, width), noise(height, width)[::-1]])
    expected = tf.image.resize(images, (side, side), antialias=side < max(height, width)).numpy()
    assert (
        np.abs(pixels.resized(tf.constant(images), ImageShape(side, side), photos=False).numpy() - expected).max()
        <= 1e-4
    )


AFFINE = [*(one for one in suspects() if one != PerImage()), from_numbers("scale=1/255,mean=0.5/0.4/0.3,order=bgr")]


@pytest.mark.parametrize("preprocessing", AFFINE, ids=lambda one: one.name)
def test_every_other_preprocessing_is_an_order_a_factor_and_a_summand(preprocessing: object) -> None:
    values = np.random.default_rng(0).uniform(0, 255, (2, 3, 3, 3)).astype(np.float32)
    order, scale, offset = pixels.coefficients(preprocessing)
    expected = np.asarray(preprocessing.apply(values), np.float64)
    assert np.abs(values[..., order] * scale + offset - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("photos", "shape", "limit"), [(False, (32, 32), 1e-5), (True, (None, None), 1.01 / 127.5)])
def test_the_keras_layers_are_the_same_and_load_in_safe_mode(
    photos: bool, shape: tuple, limit: float, tmp_path: Path
) -> None:
    images = keras.Input((*shape, 3), dtype="uint8")
    native = None if photos else (32, 32)
    x = pixels.layers(images, ImageShape(24, 24), find_preprocessing("caffe" if photos else "inception"), native=native)
    keras.Model(images, x).save(tmp_path / "layers.keras")
    loaded = keras.saving.load_model(tmp_path / "layers.keras", safe_mode=True)
    given = np.stack([noise(32, 32), noise(32, 32)[::-1]])
    resized = pixels.resized(tf.constant(given), ImageShape(24, 24), photos=photos)
    expected = find_preprocessing("caffe" if photos else "inception").apply(resized)
    factor = 127.5 if photos else 1.0  # caffe keeps the range of 8 bits: one step of 255 at most
    assert np.abs(np.asarray(loaded(given)) - expected).max() <= limit * factor


def test_a_function_of_the_users_own_is_refused() -> None:
    with pytest.raises(FinetuneError, match=r"mine:scale is a Python function of your own"):
        pixels.check(CustomPreprocessing("mine:scale", lambda images: images))
    with pytest.raises(FinetuneError, match=r"per-image standardisation is not built into exports"):
        pixels.check(PerImage())
