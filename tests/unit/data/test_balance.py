"""Weights as scikit-learn's, and an order with every class equally often, that depends on (seed, epoch) alone."""

import dataclasses

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.balance import balanced_order, balanced_weights, class_weights, repeats
from finetune.data.dataset import Dataset, Share, Split
from finetune.data.lazy import random_crops
from finetune.errors import WrongUse

NAMES = ("ant", "bee", "cat")
LABELS = np.array([0] * 30 + [1] * 4 + [2] * 9)
CONFIG = RunConfig("x", image_size=8, preprocess="unit", batch_size=6, augment="none", sampler="balanced")


def dataset(labels=LABELS, **others):
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    split = Split(pixels, labels)
    return Dataset("x", NAMES, split, None, split, "made", **others)


def test_balanced_weights_are_scikit_learns():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(balanced_weights(LABELS, 3), expected, rtol=1e-15)
    assert balanced_weights(LABELS, 3)[LABELS].mean() == pytest.approx(1)
    # A class without images, such as slim's background, takes part in nothing.
    np.testing.assert_array_equal(balanced_weights(LABELS + 1, 4), [1, *expected])


def test_weights_are_in_the_order_of_the_labels():
    given = RunConfig("x", class_weights={"cat": 3.0, "ant": 1.0, "bee": 0.0})
    assert class_weights(dataset(), given).tolist() == [1, 0, 3]
    assert class_weights(dataset(), RunConfig("x")) is None
    np.testing.assert_array_equal(
        class_weights(dataset(), RunConfig("x", class_weights="balanced")), balanced_weights(LABELS, 3)
    )
    background = dataset(background="background").with_background()
    assert class_weights(background, given).tolist() == [1, 1, 0, 3]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"ant": 1.0, "bees": 2.0, "cat": 1.0}, "the data has no class 'bees': did you mean bee"),
        ({"ant": 1.0, "x": 2.0}, "the data has no class 'x': expected 'ant', 'bee', 'cat'"),
        ({"cat": 1.0}, "no weight for class 'ant', 'bee': give every class one"),
    ],
)
def test_other_classes_are_refused(weights, words):
    with pytest.raises(WrongUse, match=words):
        class_weights(dataset(), RunConfig("x", class_weights=weights))


@pytest.mark.parametrize("labels", [LABELS, LABELS[:-1], np.arange(100) % 7, np.array([0, 0, 0, 1])])
def test_every_class_comes_equally_often(labels):
    for epoch in range(3):
        order = balanced_order(labels, seed=1, epoch=epoch)
        assert len(order) == len(labels)
        for_class = np.bincount(labels[order])
        assert for_class.max() - for_class.min() <= 1
        for label in range(labels.max() + 1):
            images = np.bincount(order, minlength=len(labels))[labels == label]
            assert images.max() - images.min() <= 1
    np.testing.assert_array_equal(order, balanced_order(labels, seed=1, epoch=2))
    assert not np.array_equal(order, balanced_order(labels, seed=1, epoch=3))
    assert not np.array_equal(order, balanced_order(labels, seed=2, epoch=2))


def test_images_of_a_large_class_take_turns():
    seen = {*np.concatenate([balanced_order(LABELS, seed=0, epoch=epoch) for epoch in range(12)])}
    assert seen == {*range(43)}


def test_batches_start_anywhere_and_workers_share_them():
    split = dataset().train

    def numbers(**more):
        found = batches.training(split, CONFIG, **{"epoch": 1, "start": 0, **more})
        return [np.round(255 * images.numpy()[:, 0, 0, 0]).astype(int).tolist() for images, _ in found]

    whole = numbers()
    order = balanced_order(LABELS, seed=0, epoch=1)
    assert [one for batch in whole for one in batch] == order[:42].tolist()
    assert numbers(start=3) == whole[3:]
    parts = zip(*(numbers(share=Share(rank, 2)) for rank in range(2)), strict=True)
    assert [[*one, *other] for one, other in parts] == whole


def test_every_copy_of_an_image_has_a_crop_of_its_own():
    order = np.array([5, 3, 5, 5, 3])
    assert repeats(order).tolist() == [0, 0, 1, 2, 1]
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    crops = random_crops(images, order, 8, (0, 1), copies=repeats(order))
    assert len({crop.tobytes() for crop in crops}) == 5
    once = random_crops(images, order, 8, (0, 1))
    np.testing.assert_array_equal(crops[:2], once[:2])
    config = dataclasses.replace(CONFIG, augment="resized-crop-flip", sampler="shuffle")
    plain = next(iter(batches.training(Split(images, np.arange(6) % 2), config, epoch=0, start=0)))
    np.testing.assert_allclose(
        np.round(plain[0].numpy() * 255),
        random_crops(images, np.random.default_rng([0, 0]).permutation(6), 8, (0, 0)),
        atol=1e-3,
    )
