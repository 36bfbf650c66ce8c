"""Operations on images against SciPy, Pillow and NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from finetune.data import image_operations as operations
from finetune.data.image_operations import blended

RNG = np.random.default_rng(0)
IMAGES = np.stack(
    [
        np.asarray(
            Image.fromarray(RNG.integers(0, 256, (5, 6, 3), np.uint8)).resize((24, 17), Image.Resampling.BICUBIC)
        )
        for _ in range(4)
    ]
)
FACTORS = np.array([0.3, 0.9, 1.5, 1.9], np.float32)


def tensor(images=IMAGES):
    return tf.constant(images, tf.float32)


def each(change):
    """`change(Pillow's image, factor)` of each image."""
    pairs = zip(IMAGES, FACTORS, strict=True)
    return np.stack([np.asarray(change(Image.fromarray(one), float(factor)), np.float64) for one, factor in pairs])


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda x, f: blended(0.0, x, f), lambda i, f: ImageEnhance.Brightness(i).enhance(f)),
        (lambda x, f: blended(operations.grey(x), x, f), lambda i, f: ImageEnhance.Color(i).enhance(f)),
        (lambda x, f: blended(operations.mean_grey(x), x, f), lambda i, f: ImageEnhance.Contrast(i).enhance(f)),
        (lambda x, f: blended(operations.smoothed(x), x, f), lambda i, f: ImageEnhance.Sharpness(i).enhance(f)),
        (lambda x, _: operations.auto_contrasted(x), lambda i, _: ImageOps.autocontrast(i)),
        (lambda x, _: operations.posterized(x, tf.constant([3] * 4)), lambda i, _: ImageOps.posterize(i, 3)),
        (lambda x, _: operations.solarized(x, tf.constant([99.5] * 4)), lambda i, _: ImageOps.solarize(i, 100)),
    ],
    ids=["brightness", "saturation", "contrast", "sharpness", "auto contrast", "posterize", "solarize"],
)  # fmt: skip
def test_colours_are_those_of_pillow_but_for_its_rounding(made, expected):
    np.testing.assert_allclose(made(tensor(), tf.constant(FACTORS)), each(expected), atol=1.5)


def test_equalized_channels_have_a_flat_histogram():
    expected = np.empty(IMAGES.shape)
    for image, channel in np.ndindex(4, 3):
        values = IMAGES[image, ..., channel]
        below = np.cumsum(np.bincount(values.ravel(), minlength=256)).astype(np.float64)
        least = below[values.min()]
        expected[image, ..., channel] = np.round((below - least) / (below[-1] - least) * 255)[values]
    np.testing.assert_array_equal(operations.equalized(tensor()), expected)
    assert tf.function(operations.equalized)(tensor()[:0]).shape == (0, 17, 24, 3)


def test_one_value_alone_stays():
    flat = tensor(np.full((2, 4, 5, 1), 70))
    np.testing.assert_array_equal(operations.auto_contrasted(flat), flat)
    np.testing.assert_array_equal(operations.equalized(flat), flat)
    np.testing.assert_array_equal(operations.smoothed(flat[:, :2]), flat[:, :2])


def sampled(image, matrix, shift=(0.0, 0.0)):
    """By SciPy: the pixel at p from the centre is the old one at `matrix` p + `shift`, as (row, column)."""
    ndimage = pytest.importorskip("scipy.ndimage")
    centre = (np.array(image.shape[:2]) - 1) / 2
    offset = centre - matrix @ centre + shift
    channels = [
        ndimage.affine_transform(image[..., one].astype(np.float64), matrix, offset, order=1, mode="reflect")
        for one in range(image.shape[2])
    ]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_rotations_are_those_of_scipy(channels):
    images, degrees = RNG.integers(0, 256, (5, 12, 15, channels)), np.array([-170, -20, 3, 45, 180], np.float32)
    made = operations.rotated(tensor(images), tf.constant(degrees))
    for one, result, angle in zip(images, made.numpy(), np.deg2rad(degrees, dtype=np.float64), strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        np.testing.assert_allclose(result, sampled(one, np.array([[cos, sin], [-sin, cos]])), atol=0.02)


def test_a_quarter_turn_is_counter_clockwise():
    square = IMAGES[:, :, :17]
    made = operations.rotated(tensor(square), tf.constant([90.0] * 4))
    np.testing.assert_allclose(made, np.rot90(square, axes=(1, 2)), atol=1e-3)


def test_shears_and_shifts_are_those_of_scipy():
    strength = tf.constant(FACTORS - 1)
    one, across, down = np.eye(2), np.array([[0, 0], [1, 0]]), np.array([[0, 1], [0, 0]])
    for made, change in (
        (operations.sheared(tensor(), across=strength), lambda s: (one + s * across, (0, 0))),
        (operations.sheared(tensor(), down=strength), lambda s: (one + s * down, (0, 0))),
        (operations.moved(tensor(), right=20 * strength), lambda s: (one, (0, -20 * s))),
        (operations.moved(tensor(), down=20 * strength), lambda s: (one, (-20 * s, 0))),
    ):
        expected = [sampled(image, *change(float(s))) for image, s in zip(IMAGES, strength.numpy(), strict=True)]
        np.testing.assert_allclose(made, expected, atol=0.02)
