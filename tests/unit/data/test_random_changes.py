"""Random changes: how often and how much, that a seed decides them, and that a share is the rows of the whole."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from finetune.data import random_changes
from finetune.data.dataset import Share

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (16, 12, 15, 3), np.uint8)
CHANGES = {
    "turned_over": random_changes.turned_over,
    "rotated": lambda images, *others: random_changes.rotated(images, 30, *others),
    "jittered": lambda images, *others: random_changes.jittered(images, 0.4, *others),
    "erased": lambda images, *others: random_changes.erased(images, 0.5, *others),
    "trivially_augmented": random_changes.trivially_augmented,
}


@functools.cache
def graph(name):
    return tf.function(CHANGES[name], autograph=False)


def changed(name, images=IMAGES, seed=(1, 2), share=None):
    arguments = (tf.constant(images, tf.float32), tf.constant(seed, tf.int32))
    return graph(name)(*arguments, *([share] if share else [])).numpy()


@pytest.mark.parametrize("name", CHANGES)
def test_the_seed_decides_and_a_share_is_the_rows_of_the_whole(name):
    whole = changed(name)
    assert whole.dtype == np.float32
    assert (whole.shape, whole.min() >= 0, whole.max() <= 255) == (IMAGES.shape, True, True)
    np.testing.assert_array_equal(whole, changed(name))
    assert not np.array_equal(whole, changed(name, seed=(1, 3)))
    parts = [changed(name, IMAGES[8 * index : 8 * index + 8], share=Share(index, 2)) for index in range(2)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6)
    # Images of one batch are changed one by one.
    same = changed(name, np.repeat(IMAGES[:1], 16, axis=0))
    assert len({image.tobytes() for image in same}) > (1 if name == "turned_over" else 3)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(name, channels):
    if channels == 4 and name in ("jittered", "trivially_augmented"):
        return  # `finetune.data.batches.check_augmentation` refuses them
    images = RNG.integers(0, 256, (8, 6, 6, channels), np.uint8)
    made = changed(name, images)
    assert made.shape == images.shape
    assert not np.array_equal(made, images)


def test_half_of_the_images_are_turned_over_and_keep_their_type():
    images = np.repeat(IMAGES[:1], 4_000, axis=0)
    made = random_changes.turned_over(tf.constant(images), tf.constant([1, 2])).numpy()
    over = (made == images[:, ::-1]).all((1, 2, 3))
    assert made.dtype == np.uint8
    assert abs(over.mean() - 0.5) < 0.03
    np.testing.assert_array_equal(made[~over], images[~over])


def test_angles_are_uniform_in_both_directions(monkeypatch):
    monkeypatch.setattr(random_changes.operations, "rotated", lambda _, degrees: degrees)
    degrees = random_changes.rotated(tf.zeros([8_000, 1, 1, 1]), 20, tf.constant([1, 2])).numpy()
    assert np.abs(degrees).max() <= 20
    np.testing.assert_allclose(np.quantile(degrees, [0.1, 0.25, 0.5, 0.75, 0.9]), [-16, -10, 0, 10, 16], atol=0.8)


def test_jitter_is_brightness_contrast_and_saturation_in_random_order():
    """torchvision's formulas in NumPy, for the factors and orders that were drawn."""
    strength, seed = 0.8, tf.constant([5, 6])
    made = random_changes.jittered(tf.constant(IMAGES, tf.float32), strength, seed).numpy()
    draws = np.stack(random_changes._draws(tf.constant(IMAGES), seed, Share(), 6), axis=1).astype(np.float64)
    orders = np.argsort(draws[:, 3:], axis=1)
    assert len({tuple(order) for order in orders}) >= 5
    for image, result, draw, order in zip(IMAGES, made, draws, orders, strict=True):
        expected = image.astype(np.float64)
        for which in order:
            grey = (expected @ [0.2989, 0.587, 0.114])[..., None]
            factor = 1 + strength * (2 * draw[which] - 1)
            other = (0.0, grey.mean(), grey)[which]
            expected = np.clip(factor * expected + (1 - factor) * other, 0, 255)
        np.testing.assert_allclose(result, expected, atol=0.05)


def boxes(probability, count=4_000, size=(40, 50)):
    """Height and width of the box that each image lost, 0 x 0 where none; the images are of one value, -1."""
    made = random_changes.erased(tf.fill([count, *size, 1], -1.0), probability, tf.constant([3, 4])).numpy()[..., 0]
    lost = made >= 0
    tall, wide = lost.any(axis=2).sum(axis=1), lost.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(lost.sum(axis=(1, 2)), tall * wide)
    return tall, wide, lost, made[lost]


def test_boxes_have_area_shape_and_place_of_the_paper_and_are_noise():
    tall, wide, lost, noise = boxes(1.0)
    share, aspect = tall * wide / 2_000, tall / wide
    assert (0.015 < share.min() < 0.025, 0.31 < share.max() < 0.345, share.min() > 0) == (True, True, True)
    # Large boxes of odd shape do not fit and are drawn again.
    assert np.quantile(share, [0.25, 0.5, 0.75]) == pytest.approx([0.0975, 0.175, 0.2525], abs=0.02)
    assert 0.25 < aspect.min() < 0.36
    assert 2.8 < aspect.max() < 3.7
    assert np.median(aspect) == pytest.approx(1, abs=0.07)
    covered = lost.mean(axis=0)
    np.testing.assert_allclose(covered, covered[::-1, ::-1], atol=0.04)
    assert noise.mean() == pytest.approx(127.5, abs=0.5)
    assert noise.std() == pytest.approx(255 / 12**0.5, abs=0.5)


def test_so_many_images_lose_a_box():
    tall, *_ = boxes(0.25, size=(10, 10))
    assert np.mean(tall > 0) == pytest.approx(0.25, abs=0.025)


def test_what_no_box_fits_into_stays():
    np.testing.assert_array_equal(changed("erased", IMAGES[:, :1, :1]), IMAGES[:, :1, :1])


def test_every_operation_and_strength_of_trivial_augment_comes_equally_often(monkeypatch):
    def strengths(number, images, strength):
        return tf.stack([tf.fill(tf.shape(strength), float(number)), strength], axis=1)[:, None, None]

    operations = {name: functools.partial(strengths, at) for at, name in enumerate(random_changes.TRIVIAL)}
    monkeypatch.setattr(random_changes, "TRIVIAL", operations)
    drawn = random_changes.trivially_augmented(tf.zeros([28_000, 1, 1, 2]), tf.constant([1, 2])).numpy()[:, 0, 0]
    assert np.bincount(drawn[:, 0].astype(int)) == pytest.approx([2_000] * 14, abs=200)
    levels, counts = np.unique(np.round(drawn[:, 1] * 30).astype(int), return_counts=True)
    np.testing.assert_array_equal(levels, np.arange(-30, 31))
    assert counts[30] + 0.0 == pytest.approx(28_000 / 31, abs=150)
    assert np.delete(counts, 30) == pytest.approx([28_000 / 62] * 60, abs=110)


@pytest.mark.parametrize("name", random_changes.TRIVIAL)
def test_trivial_operations_without_strength_change_nothing(name):
    images = IMAGES[:2].astype(np.float32)
    made, strong = (random_changes.TRIVIAL[name](tf.constant(images), tf.fill([2], one)).numpy() for one in (0.0, 1.0))
    if name not in ("auto_contrast", "equalize"):  # they have no strength
        np.testing.assert_allclose(made, images, atol=1e-3)
    assert np.array_equal(strong, images) == (name == "identity")
