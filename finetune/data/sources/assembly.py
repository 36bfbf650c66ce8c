"""From the images of a source to a data set: which are the test set, and which photos are left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.data.dataset import Dataset, Split, hold_out
from finetune.data.lazy import LazyImages, Photos, first_few, inspect_photos, measured_white
from finetune.data.lazy import Progress as Progress

_TEST_STREAM = 1
"""Added to the seed, so that test images and validation images are drawn by different random numbers."""


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read.

    data_dir: where it lies now; None if its name says so. test: the share of the images that become the test set, if
    the data has none. seed: of that draw. skip_bad_images: whether damaged photos are left out. progress, on_scan:
    receive the progress of a download in bytes, and of the inspection of photos in images. npz_keys, tfrecord_keys: the
    names of arrays and features (`KEY=NAME,KEY=NAME`), where they are not found. csv_columns: likewise of a table.
    """

    data_dir: Path | None = None
    test: float = 0.2
    seed: int = 0
    skip_bad_images: bool = False
    progress: Progress | None = None
    on_scan: Progress | None = None
    npz_keys: str | None = None
    tfrecord_keys: str | None = None
    csv_columns: str | None = None


class LabelledPhotos(NamedTuple):
    """`photos` with their labels, int64 `[len(photos)]`, and the numbers of the photos of each split."""

    photos: Photos
    labels: np.ndarray
    members: Mapping[str, np.ndarray]


def assemble(
    options: ReadOptions,
    found: Mapping[str, Split] | LabelledPhotos,
    *,
    name: str,
    class_names: tuple[str, ...],
    source: str,
    remarks: tuple[str, ...] = (),
    background: str | None = None,
) -> Dataset:
    """A data set of the splits in `found`, which may hold train, validation and test; train is required.

    Photos are inspected: damaged ones are left out if `options` say so. The images have the median of their short sides
    as their side. Without test images, validation images are the test set. Without either, a fraction `options.test` of
    every class is, drawn by the seed. `remarks` report all three cases. Raises FinetuneError for damaged photos and for
    what Dataset rejects, WrongUse for an impossible fraction.
    """
    splits, skipped = _inspected(options, found) if isinstance(found, LabelledPhotos) else (found, ())
    train, validation, test = splits["train"], splits.get("validation"), splits.get("test")
    if test is None and validation is not None:
        test, validation = validation, None
        remarks = (*remarks, "there are no test images of its own: its validation images serve as the test set")
    elif test is None:
        train, test = hold_out(train, options.test, (options.seed, _TEST_STREAM), what="test")
        remarks = (
            *remarks,
            f"there are no test images of its own: {len(test)} images, {options.test:g} of every class, are held out "
            f"as the test set, drawn by --seed {options.seed} (--test says how many)",
        )
    white = None
    if isinstance(train.images, LazyImages) and (white := measured_white(train.images)) is not None:
        train.images.photos.white = white
        remarks = (*remarks, f"pixels of more than 8 bits: {white} is white, by the training images' largest value")
    if skipped:
        left_out = f"{len(skipped)} damaged image{'s are' if len(skipped) > 1 else ' is'} left out"
        remarks = (*remarks, f"{left_out} (--skip-bad-images): {first_few(skipped)}")
    return Dataset(name, class_names, train, validation, test, source, remarks, skipped, white, background)


def _inspected(options: ReadOptions, found: LabelledPhotos) -> tuple[dict[str, Split], tuple[str, ...]]:
    """(the splits, the photos that are left out with their reasons)."""
    photos, labels, members = found
    good, bad, side = inspect_photos(photos, skip_bad=options.skip_bad_images, progress=options.on_scan)
    kept = {split: numbers[good[numbers]] for split, numbers in members.items()}
    return {split: Split(LazyImages(photos, chosen, side), labels[chosen]) for split, chosen in kept.items()}, bad
