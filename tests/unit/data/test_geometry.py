"""Which part of an image a network gets: slim's evaluation to the pixel, and the general ways by NumPy and Pillow."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from finetune.data import decoding, pipeline
from finetune.data.dataset import Split
from finetune.data.geometry import Geometry, resampled
from finetune.data.preprocessing import PREPROCESSINGS

SHAPES = [(37, 53), (300, 224), (61, 61), (224, 375)]


def photo(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, 256, (*shape, 3), np.uint8)


def slim_inception(pixels: np.ndarray, side: int) -> np.ndarray:
    """Written out after preprocess_for_eval of slim's inception_preprocessing, in a TF1 graph."""
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        image = v1.image.convert_image_dtype(v1.constant(pixels), tf.float32)
        image = v1.image.central_crop(image, central_fraction=0.875)
        image = v1.squeeze(v1.image.resize_bilinear(image[None], [side, side], align_corners=False), [0])
        return session.run(v1.multiply(v1.subtract(image, 0.5), 2.0))


def slim_vgg(pixels: np.ndarray, side: int, shortest: int) -> np.ndarray:
    """Written out after preprocess_for_eval of slim's vgg_preprocessing, in a TF1 graph."""
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        image = v1.constant(pixels)
        height, width = (v1.to_float(v1.shape(image)[axis]) for axis in (0, 1))
        least = v1.to_float(v1.constant(shortest))
        scale = v1.cond(v1.greater(height, width), lambda: least / width, lambda: least / height)
        new = [v1.to_int32(v1.rint(height * scale)), v1.to_int32(v1.rint(width * scale))]
        image = v1.squeeze(v1.image.resize_bilinear(image[None], new, align_corners=False), [0])
        offset = [v1.to_int32((v1.shape(image)[axis] - side) / 2) for axis in (0, 1)]
        image = v1.to_float(v1.slice(image, [*offset, 0], [side, side, 3]))
        return session.run(image - v1.constant([123.68, 116.779, 103.939]))


@pytest.mark.parametrize("shape", SHAPES)
def test_slims_inception_evaluation_to_the_pixel(shape: tuple[int, int]) -> None:
    pixels = photo(shape)
    found = resampled(pixels[None], Geometry("squash", 0.875, "slim"), (96, 96))
    found = PREPROCESSINGS["inception"].apply(found)[0]
    np.testing.assert_allclose(found, slim_inception(pixels, 96), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_slims_vgg_evaluation_to_the_pixel(shape: tuple[int, int]) -> None:
    pixels = photo(shape)
    found = resampled(pixels[None], Geometry("crop", 0.875, "slim"), (224, 224))
    np.testing.assert_array_equal(PREPROCESSINGS["vgg"].apply(found)[0], slim_vgg(pixels, 224, 256))


@pytest.mark.parametrize("geometry", [Geometry("squash", 0.875, "slim"), Geometry("crop", 0.875, "slim")])
def test_photos_and_arrays_reach_the_network_as_slim_makes_them(geometry: Geometry) -> None:
    pixels = photo((50, 40))
    expected = resampled(pixels[None], geometry, (24, 24))
    np.testing.assert_array_equal(decoding.centre(Image.fromarray(pixels), (24, 24), geometry), expected[0])
    split = Split(pixels[None], np.zeros(1, np.int64))
    raw = PREPROCESSINGS["raw"]
    ((fed, _, _),) = pipeline.eval_batches(split, batch_size=1, image_size=24, preprocessing=raw, geometry=geometry)
    np.testing.assert_allclose(fed, expected, rtol=0, atol=1e-4)


def test_squash_takes_all_of_an_image_and_crop_its_centre() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :20] = 200  # a quarter of the width, outside the centre square
    image = Image.fromarray(pixels)
    assert decoding.centre(image, (40, 40)).max() == 0
    squashed = decoding.centre(image, (40, 40), Geometry("squash"))
    assert squashed[:, :9].min() == 200
    assert squashed[:, 11:].max() == 0


def test_pad_keeps_the_whole_image_and_its_ratio() -> None:
    image = Image.fromarray(np.full((40, 80, 3), 200, np.uint8))
    padded = decoding.centre(image, (40, 40), Geometry("pad"))
    assert padded.shape == (40, 40, 3)
    assert padded[10:30].min() == 200
    assert padded[:10].max() == padded[30:].max() == 0


def test_a_fraction_keeps_the_centre_of_each_side() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[5:35, 5:35] = 200
    found = decoding.centre(Image.fromarray(pixels), (30, 30), Geometry(fraction=0.75))
    assert found.min() == 200
    assert decoding.centre(Image.fromarray(pixels), (30, 30), Geometry("squash", 0.75)).min() == 200


@pytest.mark.parametrize(
    ("geometry", "shape"),
    [
        (Geometry(), (4, 40, 40, 3)),
        (Geometry(fraction=0.5), (4, 20, 20, 3)),
        (Geometry("squash"), (4, 40, 60, 3)),
        (Geometry("pad"), (4, 60, 60, 3)),
        (Geometry("squash", 0.875, "slim"), (4, 40, 60, 3)),
    ],
)
def test_arrays_keep_their_resolution_until_they_are_in_a_batch(geometry: Geometry, shape: tuple[int, ...]) -> None:
    split = Split(np.full((4, 40, 60, 3), 7, np.uint8), np.arange(4) % 2)
    assert split.at(30, geometry).images.shape == shape


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
def test_kerass_own_loader_gives_the_same_pixels(mode: Any, shape: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    Image.fromarray(photo(shape)).save(tmp_path / "a" / "0.png")
    Image.fromarray(photo(shape)).save(tmp_path / "b" / "0.png")
    ratio = {"crop_to_aspect_ratio": mode == "crop", "pad_to_aspect_ratio": mode == "pad"}
    loaded = keras.utils.image_dataset_from_directory(
        tmp_path, image_size=(48, 64), shuffle=False, verbose=False, **ratio
    )
    ((images, _),) = loaded
    with Image.open(tmp_path / "a" / "0.png") as image:
        found = decoding.centre(image, (48, 64), Geometry(mode, sampler="keras"))
    np.testing.assert_allclose(found, images[0], rtol=0, atol=1e-3)


def test_jpegs_are_decoded_as_tensorflow_decodes_them(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(photo((60, 60))).save(path, quality=80)
    with Image.open(path) as image:
        found = decoding.decoded(image, 3, Geometry(sampler="keras"))
    np.testing.assert_array_equal(found, tf.io.decode_jpeg(path.read_bytes(), channels=3))
