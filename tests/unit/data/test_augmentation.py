"""Crops and flips against all that NumPy can make of an image."""

import numpy as np
import pytest
import tensorflow as tf

from finetune.data.augmentation import Augmentation

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 10, 3), np.uint8)


def augment(augmentation, images, seed=(1, 2)):
    return augmentation.augment(tf.constant(images), tf.constant(seed, tf.int32)).numpy()


def possible(image, padding, flip):
    """Every (down, right, flipped) -> image, padded by reflection and cropped."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    height, width = image.shape[:2]
    for down in range(2 * padding + 1):
        for right in range(2 * padding + 1):
            crop = padded[down : down + height, right : right + width]
            yield (down, right, False), crop
            if flip:
                yield (down, right, True), crop[:, ::-1]


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (3, False), (7, True), (0, True)])
def test_each_image_is_one_of_its_possible_crops(padding, flip):
    made = augment(Augmentation(padding, flip), IMAGES)
    seen = []
    for image, result in zip(IMAGES, made, strict=True):
        matches = [move for move, crop in possible(image, padding, flip) if np.array_equal(crop, result)]
        assert matches
        seen += matches[:1]  # a wide reflection may hold the same crop twice
    assert made.dtype == np.uint8
    # Images of one batch are moved one by one.
    assert len(set(seen)) > (1 if padding == 0 else 20)


def test_every_move_occurs_equally_often():
    image = np.random.default_rng(1).integers(0, 256, (5, 5, 3), np.uint8)
    made = augment(Augmentation(1, True), np.repeat(image[None], 9_000, axis=0))
    shares = [np.mean((made == crop).all((1, 2, 3))) for _, crop in possible(image, 1, True)]
    assert len(shares) == 18
    np.testing.assert_allclose(shares, 1 / 18, atol=0.012)


def test_half_of_the_images_are_flipped():
    images = np.repeat(IMAGES[:1], 4_000, axis=0)
    flipped = (augment(Augmentation(0, True), images) == images[:, :, ::-1]).all((1, 2, 3))
    assert abs(flipped.mean() - 0.5) < 0.03


def test_nothing_asked_for_is_nothing_done():
    np.testing.assert_array_equal(augment(Augmentation(0, False), IMAGES), IMAGES)


def test_the_seed_decides():
    augmentation = Augmentation(2, True)
    first, again = augment(augmentation, IMAGES), augment(augmentation, IMAGES)
    traced = tf.function(augmentation.augment)(tf.constant(IMAGES), tf.constant([1, 2])).numpy()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, traced)
    assert not np.array_equal(first, augment(augmentation, IMAGES, seed=(1, 3)))
