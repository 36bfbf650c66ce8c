"""From what a source has to a data set: who is the test set, and which photos are left out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from finetune.data import scanning
from finetune.data.dataset import Dataset, Split, hold_out
from finetune.data.lazy import LazyImages, Photos
from finetune.errors import FinetuneError

Progress = Callable[[int, int | None], None]
"""Called as work goes on: so many done, of so many in all where that is known."""

TEST_SHARE = 0.2
_TEST_STREAM = 1
"""Beside the seed, so that test images are not drawn by the very numbers that draw validation images."""


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is to be read: where it is now (None: where its name says), the share of the images that become
    the test set where it has none, the seed of that draw, whether damaged photos are left out; and who hears how far
    a download (`progress`, bytes) and a look through the photos (`on_scan`, images) have got."""

    data_dir: str | None = None
    test: float = TEST_SHARE
    seed: int = 0
    skip_bad_images: bool = False
    progress: Progress | None = None
    on_scan: Progress | None = None


def assemble(
    request: ReadOptions,
    *,
    name: str,
    class_names: tuple[str, ...],
    splits: Mapping[str, Split],
    source: str,
    remarks: tuple[str, ...] = (),
    skipped: tuple[str, ...] = (),
) -> Dataset:
    """A data set of the `splits` that are there, of train, validation and test; train must be.

    Without test images, validation images are the test set; without either, `request.test` of every class is, drawn
    by the seed. `remarks` then say so. Raises FinetuneError for what Dataset refuses, WrongUse for an impossible share.
    """
    train, validation, test = (splits.get(one) for one in ("train", "validation", "test"))
    if train is None:
        raise FinetuneError(f"{source} has no training images: expected some; check the data")
    if test is None and validation is not None:
        test, validation = validation, None
        remarks = (*remarks, "there are no test images of its own: its validation images serve as the test set")
    elif test is None:
        train, test = hold_out(train, request.test, (request.seed, _TEST_STREAM), what="test")
        remarks = (
            *remarks,
            f"there are no test images of its own: {len(test)} images, {request.test:g} of every class, are held out "
            f"as the test set, drawn by --seed {request.seed} (--test says how many)",
        )
    if skipped:
        left_out = f"{len(skipped)} damaged image{'s are' if len(skipped) > 1 else ' is'} left out"
        remarks = (*remarks, f"{left_out} (--skip-bad-images): {scanning.listed(skipped)}")
    return Dataset(name, class_names, train, validation, test, source, remarks, skipped)


def photo_splits(
    request: ReadOptions, photos: Photos, labels: np.ndarray, members: Mapping[str, np.ndarray]
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """The splits whose photos are numbered `members`, with the photos looked through; and what is left out, named.

    `labels` int64 `[len(photos)]`. Seen at the median of the short sides. Raises FinetuneError for damaged photos,
    unless the request is to leave them out.
    """
    seen = scanning.inspect(photos, skip_bad=request.skip_bad_images, progress=request.on_scan)
    splits = {}
    for split, numbers in members.items():
        numbers = numbers[seen.good[numbers]]
        splits[split] = Split(LazyImages(photos, numbers, seen.side), labels[numbers])
    return splits, seen.bad
