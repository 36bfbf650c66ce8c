"""Each finding on images that were made to have it, and on images that were not."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from finetune.data.check.findings import across_splits, find
from finetune.data.check.kinds import WORDS
from finetune.data.check.measures import Pool, measure
from finetune.data.dataset import Dataset, Split


def scene(seed):
    """A smooth image with some detail, as photos are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 236, (6, 6, 3), np.uint8)).resize((48, 48), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse).astype(int) + rng.integers(-12, 13, (48, 48, 3)), 0, 255).astype(np.uint8)


def found(train, test, train_labels=None, test_labels=None):
    given = ((train, train_labels), (test, test_labels))
    labels = [np.arange(len(images)) % 2 if one is None else np.asarray(one, np.int64) for images, one in given]
    parts = [Split(np.stack(images), one) for (images, _), one in zip(given, labels, strict=True)]
    pool = Pool.of(Dataset("some", ("a", "b"), parts[0], None, parts[1], "some"))
    findings = {one.kind: one for one in find(pool, measure(pool))}
    return pool, findings


def named(pool, finding, *, removable=False):
    numbers = finding.numbers[finding.removable] if removable else finding.numbers
    return [pool.name(int(number)) for number in numbers]


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(60)]


def test_images_without_a_fault_have_no_finding(scenes):
    _, findings = found(scenes[:40], scenes[40:])
    assert {kind: len(one) for kind, one in findings.items() if len(one)} == {}
    assert list(findings) == [kind for kind in WORDS if kind != "suspect-label"]


def test_equal_images_in_a_split_and_across(scenes):
    train = [*scenes[:40], scenes[3], scenes[3]]
    test = [*scenes[40:], scenes[7]]
    pool, findings = found(train, test, [*np.arange(40) % 2, 1, 0], [*np.arange(20) % 2, 1])
    copies = findings["duplicate"]
    assert [[pool.name(int(one)) for one in group] for group in copies.groups] == [
        ["train/3", "train/40", "train/41"],
        ["train/7", "test/20"],
    ]
    # The first stays; of two splits, the later one: a test image that is left out changes what is measured.
    assert named(pool, copies, removable=True) == ["train/40", "train/41", "train/7"]
    assert across_splits(pool, copies) == {"train and test": 1}
    conflicting = findings["conflicting-labels"]
    assert named(pool, conflicting, removable=True) == ["train/3", "train/40", "train/41"]
    assert conflicting.notes[3] == "labelled a and b"
    assert len(findings["near-duplicate"]) == 0


def test_copies_that_were_changed_a_little(scenes):
    image = Image.fromarray(scenes[5])
    changed = [
        image.resize((31, 31), Image.Resampling.BILINEAR).resize((48, 48)),
        image.point(lambda value: value * 0.8 + 10),
        image.filter(ImageFilter.GaussianBlur(0.8)),
    ]
    pool, findings = found([*scenes[:40], *map(np.asarray, changed)], scenes[40:])
    (group,) = findings["near-duplicate"].groups
    assert [pool.name(int(one)) for one in group] == ["train/5", "train/40", "train/41", "train/42"]
    assert named(pool, findings["near-duplicate"], removable=True) == ["train/40", "train/41", "train/42"]


def test_flat_images_are_no_duplicates_of_each_other(scenes):
    black = np.zeros((48, 48, 3), np.uint8)
    pool, findings = found([*scenes[:40], black, black, black + 200], [*scenes[40:], black])
    assert sorted(named(pool, findings["flat"])) == ["test/20", "train/40", "train/41", "train/42"]
    assert len(findings["duplicate"]) == len(findings["near-duplicate"]) == len(findings["conflicting-labels"]) == 0


def test_blurred_dark_and_bright_images(scenes):
    blurred = np.asarray(Image.fromarray(scenes[41]).filter(ImageFilter.GaussianBlur(6)))
    dark, bright = (scenes[42] // 5), 255 - scenes[43] // 6
    pool, findings = found([*scenes[:40], blurred, dark, bright], scenes[44:])
    assert named(pool, findings["blurred"])[0] == "train/40"
    assert named(pool, findings["dark"]) == ["train/41"]
    assert named(pool, findings["bright"]) == ["train/42"]


def test_where_all_images_are_dark_none_is_odd(scenes):
    _, findings = found([one // 6 for one in scenes[:40]], [one // 6 for one in scenes[40:]])
    assert len(findings["dark"]) == 0


def test_two_images_are_enough(scenes):
    _, findings = found(scenes[:2], scenes[2:3], test_labels=[0])
    assert all(len(one) == 0 for one in findings.values())
