"""Subsets and hold-outs: counts, classes, order, seeds."""

import numpy as np
import pytest

from finetune.data.dataset import Dataset, Split, few_shot, hold_out, stratified_subset
from finetune.errors import FinetuneError, WrongUse


def split_of(*sizes, seed=0):
    """A shuffled split with `sizes[label]` images of each label; pixel [0, 0, 0] and [0, 0, 1] number the images."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(labels)) // 256, np.arange(len(labels)) % 256
    return Split(images, labels)


def numbers(split):
    return split.images[:, 0, 0, 0].astype(int) * 256 + split.images[:, 0, 0, 1]


def counts(split, classes):
    return np.bincount(split.labels, minlength=classes).tolist()


def dataset_of(train, test, names=("a", "b"), validation=None):
    return Dataset("d", tuple(names), train, validation, test, "somewhere")


def test_take_keeps_images_and_labels_together():
    split = split_of(5, 5)
    taken = split.take(np.array([7, 2]))
    assert numbers(taken).tolist() == [7, 2]
    assert taken.labels.tolist() == split.labels[[7, 2]].tolist()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 4, 4, 2), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32)),
    ],
)
def test_a_split_has_one_type_and_shape(images, labels):
    with pytest.raises(ValueError, match="expected"):
        Split(images, labels)


@pytest.mark.parametrize(
    ("sizes", "examples", "expected"),
    [
        ((10, 10, 10), 6, [2, 2, 2]),
        ((10, 10, 10), 30, [10, 10, 10]),
        ((2, 10, 10), 12, [2, 5, 5]),
        ((1, 2, 100), 50, [1, 2, 47]),
        ((10, 10, 10), 3, [1, 1, 1]),
    ],
)
def test_every_class_gives_its_share_and_small_ones_what_they_have(sizes, examples, expected):
    assert counts(stratified_subset(split_of(*sizes), examples, seed=0), len(sizes)) == expected


@pytest.mark.parametrize("examples", range(3, 41))
def test_the_number_is_exact_and_shares_differ_by_one_at_most(examples):
    split = split_of(20, 20, 20)
    subset = stratified_subset(split, examples, seed=examples)
    assert len(subset) == examples
    assert np.ptp(counts(subset, 3)) <= 1
    assert (np.diff(numbers(subset)) > 0).all()
    np.testing.assert_array_equal(subset.labels, split.labels[numbers(subset)])


def test_which_images_depends_on_the_seed_and_on_nothing_else():
    split = split_of(50, 50)
    first, again, other = (numbers(stratified_subset(split, 20, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    uneven = {tuple(counts(stratified_subset(split, 21, seed), 2)) for seed in range(20)}
    assert uneven == {(10, 11), (11, 10)}


@pytest.mark.parametrize(
    ("examples", "said"),
    [(31, "31 examples are more than the 30 there are"), (2, "2 examples are fewer than the 3 classes")],
)
def test_impossible_subsets_are_wrong_use(examples, said):
    with pytest.raises(WrongUse, match=said):
        stratified_subset(split_of(10, 10, 10), examples, seed=0)


def test_few_shots_are_so_many_of_every_class_and_fewer_are_among_more():
    split, names = split_of(9, 30, 5), ("a", "b", "c")
    taken = {}
    for shots in (1, 2, 5):
        chosen, others = few_shot(split, shots, 7, names)
        assert counts(chosen, 3) == [shots] * 3
        assert sorted([*numbers(chosen), *numbers(others)]) == list(range(44))
        assert (np.diff(numbers(chosen)) > 0).all()
        np.testing.assert_array_equal(chosen.labels, split.labels[numbers(chosen)])
        taken[shots] = set(numbers(chosen))
    assert taken[1] < taken[2] < taken[5]
    np.testing.assert_array_equal(numbers(few_shot(split, 5, 7, names)[0]), sorted(taken[5]))
    assert set(numbers(few_shot(split, 5, 8, names)[0])) != taken[5]


def test_too_few_images_for_the_shots_name_the_class():
    with pytest.raises(WrongUse, match="--few-shot 6: class c has 5 training images: expected 6 of every class"):
        few_shot(split_of(9, 30, 5), 6, 0, ("a", "b", "c"))


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("sizes", [(40, 40, 40), (7, 30, 100), (2, 2, 2), (1, 1, 50)])
def test_held_out_images_are_a_stratified_part_of_the_rest(fraction, sizes):
    split = split_of(*sizes)
    train, validation = hold_out(split, fraction, seed=3)
    assert len(validation) == max(1, round(fraction * len(split)))
    assert sorted([*numbers(train), *numbers(validation)]) == list(range(len(split)))
    assert min(counts(train, 3)) >= 1
    for part in (train, validation):
        assert (np.diff(numbers(part)) > 0).all()
        np.testing.assert_array_equal(part.labels, split.labels[numbers(part)])
    if min(sizes) > 2:
        np.testing.assert_array_less(np.abs(np.array(counts(validation, 3)) - fraction * np.array(sizes)), 1)


def test_hold_out_depends_on_the_seed():
    first, again, other = (numbers(hold_out(split_of(50, 50), 0.2, seed)[1]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("sizes", "fraction"), [((1, 1), 0.05), ((2, 2), 0.9), ((5, 5), 1.0), ((5, 5), 0.0)])
def test_a_hold_out_that_empties_a_class_is_wrong_use(sizes, fraction):
    with pytest.raises(WrongUse, match="lower --validation"):
        hold_out(split_of(*sizes), fraction, seed=0)


def test_a_class_without_training_images_is_an_error():
    with pytest.raises(FinetuneError, match=r"somewhere has no training images of class 1 \(b\)"):
        dataset_of(split_of(3), split_of(1, 1))
    with pytest.raises(FinetuneError, match="somewhere has no test images"):
        dataset_of(split_of(3, 3), split_of(0, 0))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_without_a_class_is_an_error(label):
    wrong = Split(np.zeros((1, 2, 2, 3), np.uint8), np.array([label]))
    with pytest.raises(FinetuneError, match=f"has test label {label}: expected 0 to 1"):
        dataset_of(split_of(3, 3), wrong)


def test_the_fingerprint_is_of_pixels_and_labels():
    train, test = split_of(3, 3), split_of(2, 2)
    mark = dataset_of(train, test).fingerprint()
    assert len(mark) == 64
    assert dataset_of(split_of(3, 3), split_of(2, 2), validation=test).fingerprint() == mark
    assert dataset_of(test, train).fingerprint() != mark
    pixels = train.images.copy()
    pixels[5, 1, 1, 2] += 1
    assert dataset_of(Split(pixels, train.labels), test).fingerprint() != mark
    assert dataset_of(Split(train.images, np.sort(train.labels)[::-1].copy()), test).fingerprint() != mark
    # A view that is not contiguous holds the same pixels.
    view = Split(np.asfortranarray(train.images), train.labels)
    assert dataset_of(view, test).fingerprint() == mark
