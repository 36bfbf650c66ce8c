"""Crops and flips against all that NumPy can make of an image; mixup, CutMix and RandAugment: what they make, in which
range, and that a seed decides it all."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from finetune.data import pipeline
from finetune.data.augmentation import OPERATIONS, Augmentation, RandAugment
from finetune.data.dataset import Share, Split
from finetune.data.preprocessing import find_preprocessing

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


RNG = np.random.default_rng(0)
MIXED = RNG.integers(0, 256, (24, 12, 10, 3), np.uint8)
LABELS = np.arange(24)  # every image a class of its own: a target then says which images it is made of


def made(images=MIXED, labels=LABELS, seed=(1, 2), **settings):
    augmentation = Augmentation(crop_padding=0, flip=False, **settings)
    given = (tf.constant(images), tf.constant(labels), tf.constant(seed, tf.int32))
    pixels, targets = augmentation.batch(*given, classes=int(labels.max()) + 1)
    return np.asarray(pixels), np.asarray(targets)


@pytest.mark.parametrize("alpha", [0.05, 0.4, 1.0, 3.0])
def test_mixup_mixes_pixels_as_it_mixes_labels(alpha):
    pixels, targets = made(mixup=alpha)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert (np.count_nonzero(targets, axis=1) <= 2).all()
    expected = np.tensordot(targets.astype(np.float64), MIXED.astype(np.float64), axes=1)
    np.testing.assert_allclose(pixels, expected, atol=1e-3)


def test_mixup_draws_from_beta():
    """Of the share of the image itself: mean 1/2 and variance 1 / (4 (2 alpha + 1)), against NumPy's draws in shape."""
    shares = []
    for seed in range(200):
        _, targets = made(mixup=0.4, seed=(0, seed))
        own = targets[np.arange(24), LABELS]
        shares += list(own[own < 1])  # some are mixed with themselves
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert np.var(shares) == pytest.approx(1 / (4 * 1.8), rel=0.05)


def test_a_small_alpha_never_gives_nan():
    # In float32 about one draw in a thousand of Beta(0.02, 0.02) is 0 / 0.
    for seed in range(100):
        for way in ({"mixup": 0.02}, {"cutmix": 0.02}):
            pixels, targets = made(seed=(0, seed), **way)
            assert np.isfinite(pixels).all()
            assert np.isfinite(targets).all()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_cutmix_pastes_one_box_and_labels_count_its_pixels(alpha):
    pixels, targets = made(cutmix=alpha)
    boxes = 0
    for image, target, own in zip(pixels, targets, LABELS, strict=True):
        (others,) = np.nonzero(np.delete(target, own))
        other = int(np.delete(np.arange(24), own)[others[0]]) if len(others) else own
        pasted = (image != MIXED[own]).any(axis=-1)
        np.testing.assert_array_equal(image, np.where(pasted[..., None], MIXED[other], MIXED[own]))
        assert target[own] == pytest.approx(1 - pasted.mean(), abs=1e-6)
        if pasted.any():
            rows, columns = np.nonzero(pasted.any(axis=1))[0], np.nonzero(pasted.any(axis=0))[0]
            assert pasted.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            boxes += 1
    assert boxes > 12


def test_of_both_each_batch_takes_one():
    both = [made(mixup=1.0, cutmix=1.0, seed=(0, seed))[0] for seed in range(40)]
    pasted = [np.array_equal(pixels, np.round(pixels)) for pixels in both]
    assert 8 < sum(pasted) < 32


@pytest.mark.slow
def test_rand_augment_keeps_range_and_labels_and_draws_for_every_image():
    same = np.repeat(MIXED[:1], 24, axis=0)
    results = [made(same, rand_augment=1.0, seed=(0, seed)) for seed in range(4)]
    pixels = np.concatenate([one for one, _ in results])
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    np.testing.assert_array_equal(results[0][1], LABELS)
    # Some pairs of operations have no strength to draw, such as equalization twice.
    assert len({image.tobytes() for image in pixels}) > 80


@pytest.mark.slow
def test_rand_augment_changes_little_where_little_is_asked():
    smooth = np.linspace(0, 255, 24 * 12 * 10 * 3).reshape(MIXED.shape).astype(np.uint8)[::2]
    change = [
        np.abs(made(smooth, LABELS[:12], rand_augment=one)[0] - smooth).mean(axis=(1, 2, 3)) for one in (0.01, 1.0)
    ]
    # Equalization and contrast to the full range have no strength: nine of eleven operations have.
    assert np.quantile(change[0], 0.4) < 1 < np.quantile(change[1], 0.4)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_of_the_weakest_magnitude_all_but_leaves_the_image(name):
    image = np.linspace(0, 255, 16 * 16 * 3).reshape(1, 16, 16, 3).astype(np.float32)
    layer = RandAugment(0.01)
    layer._draws.begin(tf.constant([3, 4]))
    changed = np.asarray(layer._changed(name, tf.constant(image)))
    # A ramp over the full range: nothing to stretch either. Posterizing to 8 bits cuts the fractions off.
    assert np.abs(changed - image).mean() < (4 if name == "equalization" else 2.5), name


@pytest.mark.parametrize("settings", [{"rand_augment": 1.0}, {"mixup": 0.4}, {"cutmix": 1.0, "mixup": 0.2}])
def test_the_seed_decides_strong_augmentation(settings):
    first, again, other = made(**settings), made(**settings), made(seed=(1, 3), **settings)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], other[0])


KNOBS = {"flip_vertical": True, "rotate": 20.0, "trivial_augment": True, "color_jitter": 0.4, "erase": 0.5}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_all_changes_of_bytes_and_of_floats_are_the_same(dtype):
    images, labels = MIXED[:8], LABELS[:8]
    pixels, targets = made(images.astype(dtype), labels, **KNOBS, mixup=0.2)
    again, _ = made(images, labels, **KNOBS, mixup=0.2)
    np.testing.assert_array_equal(pixels, again)
    assert (pixels.dtype, pixels.shape, targets.shape) == (np.float32, images.shape, (8, 8))
    assert (pixels.min() >= 0, pixels.max() <= 255) == (True, True)


def test_upside_down_alone_leaves_bytes():
    pixels, labels = made(flip_vertical=True)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(labels, LABELS)
    over = [np.array_equal(one, image[::-1]) for one, image in zip(pixels, MIXED, strict=True)]
    as_it_was = [np.array_equal(one, image) for one, image in zip(pixels, MIXED, strict=True)]
    assert 5 < sum(over) == 24 - sum(as_it_was) < 19
    mirrored = augment(Augmentation(0, True), MIXED, seed=(1, 2))[:, :, 0] != MIXED[:, :, 0]
    assert over != list(mirrored.any((1, 2)))  # the two flips are drawn independently


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("settings", [{"flip_vertical": True}, KNOBS])
def test_the_share_of_a_worker_is_the_rows_of_the_whole(settings):
    augmentation, seed = Augmentation(2, True, **settings), tf.constant([1, 2])
    whole, _ = augmentation.batch(tf.constant(MIXED), tf.constant(LABELS), seed, classes=24)
    for index in range(2):
        rows = slice(12 * index, 12 * index + 12)
        given = (tf.constant(MIXED[rows]), tf.constant(LABELS[rows]), seed)
        part, _ = augmentation.batch(*given, classes=24, share=Share(index, 2))
        np.testing.assert_allclose(part, np.asarray(whole)[rows], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"rand_augment": 1.0}, {"mixup": 1.0}, {"cutmix": 1.0}])
def test_batches_of_one_image(settings):
    for seed in range(5):
        assert np.isfinite(made(MIXED[:1], LABELS[:1], seed=(0, seed), **settings)[0]).all()


@pytest.mark.slow
def test_later_batches_do_not_depend_on_earlier_ones():
    split = Split(np.concatenate([MIXED] * 4), np.concatenate([LABELS] * 4))
    settings = {
        "batch_size": 16,
        "image_size": 16,
        "preprocessing": find_preprocessing("inception"),
    }
    epoch = pipeline.Epoch(5, 2, Augmentation(1, True, rand_augment=0.5, mixup=0.2, cutmix=1.0))
    whole = list(pipeline.train_batches(split, epoch, **settings))
    rest = list(pipeline.train_batches(split, replace(epoch, start_batch=4), **settings))
    assert len(whole) == 6
    for one, two in zip(whole[4:], rest, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)
    images, targets = whole[0]
    assert images.shape == (16, 16, 16, 3)
    assert targets.shape == (16, 24)
    assert np.abs(images).max() <= 1.0 + 1e-5  # preprocessed from [0, 255], not from anything else
