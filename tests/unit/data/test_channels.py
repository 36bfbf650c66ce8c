"""Images in other channels than they have: what Pillow makes of the same pixels, to the bit."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from finetune.config import RunConfig
from finetune.data import batches, decoding
from finetune.data.batches import EvalSet
from finetune.data.channels import in_channels
from finetune.data.dataset import Split
from finetune.data.preprocessing import PREPROCESSINGS, suspects

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
LUMA = np.array([0.299, 0.587, 0.114])


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def pillow(image, channels):
    """Alpha is laid over white, as on a web page."""
    image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if image.mode == "RGBA" and channels != 4:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(image.convert(MODES[channels])).reshape(image.height, image.width, channels)


@pytest.mark.parametrize(("found", "wanted"), itertools.product(MODES, MODES))
def test_arrays_and_photos_get_the_channels_that_pillow_gives(found, wanted):
    images = noise(1, 256, 256, found)
    expected = pillow(images[0], wanted)
    made = in_channels(tf.constant(images), wanted)
    assert made.dtype == tf.uint8
    np.testing.assert_array_equal(made[0], expected)
    photo = Image.fromarray(images[0, ..., 0] if found == 1 else images[0])
    np.testing.assert_array_equal(decoding.centre(photo, (256, 256, wanted)), expected)


def test_grey_is_tensorflows_within_rounding():
    images = noise(4, 32, 32, 3)
    grey = np.asarray(in_channels(tf.constant(images), 1), int)
    assert np.abs(grey - np.asarray(tf.image.rgb_to_grayscale(images), int)).max() <= 1


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_the_mean_of_one_channel_is_that_of_grey_images(name):
    one = PREPROCESSINGS[name]
    order = slice(None, None, 1 if one.channels == "rgb" else -1)
    pixels = noise(2, 4, 4, 4)
    mean, std = (float(np.dot(values[order], LUMA)) for values in (one.mean, one.std))
    grey = (pixels[..., :1] * one.scale - mean) / std
    np.testing.assert_allclose(one.apply(pixels[..., :1]), grey, rtol=1e-5, atol=1e-4)
    rgba = np.concatenate([one.apply(pixels[..., :3]), (pixels[..., 3:] * one.scale - mean) / std], axis=-1)
    np.testing.assert_allclose(one.apply(pixels), rgba, rtol=1e-5, atol=1e-4)


def test_every_suspect_takes_every_number_of_channels():
    for one, channels in itertools.product(suspects(), MODES):
        assert one.apply(tf.zeros((1, 2, 2, channels))).shape == (1, 2, 2, channels)


def test_images_of_the_networks_shape_are_untouched_and_others_cut_and_resized():
    wide = Split(noise(3, 24, 32, 3), np.arange(3))
    (same, _, _), *_ = EvalSet(wide, 3, "24x32", PREPROCESSINGS["raw"]).batches()
    np.testing.assert_array_equal(same, wide.images)
    (grey, _, _), *_ = EvalSet(wide, 3, "12x12x1", PREPROCESSINGS["raw"]).batches()
    exact = np.stack([pillow(image, 1) for image in wide.images[:, :, 4:28]])
    np.testing.assert_allclose(grey, tf.image.resize(exact, (12, 12), antialias=True), atol=1e-3)
    config = RunConfig("", image_size="12x12x1", preprocess="raw", batch_size=3)
    assert batches.fitting(wide, config) == (
        "the centre square of images of 32 x 24 px is taken",
        "RGB images become grey, 0.299 R + 0.587 G + 0.114 B: the network takes 1 channel",
    )
