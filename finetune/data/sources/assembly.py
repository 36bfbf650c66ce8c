"""From the images of a source to a data set: which are the test set, and which photos are left out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.data.dataset import Dataset, Split, hold_out
from finetune.data.lazy import LazyImages, Photos
from finetune.data.lazy import Progress as Progress
from finetune.data.photo_scan import Inspection, first_few, inspect_photos

_TEST_STREAM = 1
"""Added to the seed, so that test images and validation images are drawn by different random numbers."""


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read.

    data_dir: where it lies now; None if its name says so. test: the share of the images that become the test set, if
    the data has none. seed: of that draw. skip_bad_images: whether damaged photos are left out. progress, on_scan:
    receive the progress of a download in bytes, and of the inspection of photos in images. npz_keys, tfrecord_keys: the
    names of arrays and features, where they are not found, by the keys of these settings. csv_columns: of a table.
    multi_label, label_separator: as in a run's settings. white: as in `Dataset`, if it is known from a run; otherwise
    the data's own training images say it. excluded: the names of photos that may be damaged, because they are left out
    anyway.
    """

    data_dir: Path | None = None
    test: float = 0.2
    seed: int = 0
    skip_bad_images: bool = False
    progress: Progress | None = None
    on_scan: Progress | None = None
    npz_keys: Mapping[str, str] = field(default_factory=dict)
    tfrecord_keys: Mapping[str, str] = field(default_factory=dict)
    csv_columns: Mapping[str, str] = field(default_factory=dict)
    multi_label: bool = False
    label_separator: str | None = None
    white: int | None = None
    excluded: Collection[str] = ()


class LabelledPhotos(NamedTuple):
    """`photos` with their labels, int64 `[len(photos)]` or uint8 0/1 `[len(photos), classes]`, and the numbers of the
    photos of each split."""

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
    white: int | None = None,
) -> Dataset:
    """A data set of the splits in `found`, which may hold train, validation and test; train is required.

    Photos are inspected: damaged ones are left out if `options` say so. The images have the median of their short sides
    as their side. `white` is that of arrays. Without test images, validation images are the test set. Without either, a
    fraction `options.test` of every class is, drawn by the seed. `remarks` report all three cases. Raises FinetuneError
    for damaged photos and for what Dataset rejects, WrongUse for an impossible fraction.
    """
    seen: Inspection | None = None
    splits: Mapping[str, Split]
    if isinstance(found, LabelledPhotos):
        seen = inspect_photos(
            found.photos, skip_bad=options.skip_bad_images, excluded=options.excluded, progress=options.on_scan
        )
        splits = _good(found, seen)
    else:
        splits = found
    skipped = seen.bad if seen else ()
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
    if seen and isinstance(train.images, LazyImages):
        white = options.white or seen.white(train.images)
        train.images.photos.white = white
        if white and not options.white:
            remarks = (*remarks, f"pixels of more than 8 bits: {white} is white, by the training images' largest value")
    if skipped:
        left_out = f"{len(skipped)} damaged image{'s are' if len(skipped) > 1 else ' is'} left out"
        remarks = (*remarks, f"{left_out} (--skip-bad-images): {first_few(skipped)}")
    return Dataset(name, class_names, train, validation, test, source, remarks, skipped, white, background)


def _good(found: LabelledPhotos, seen: Inspection) -> dict[str, Split]:
    """The splits, without the photos that are left out."""
    photos, labels, members = found
    kept = {split: numbers[seen.good[numbers]] for split, numbers in members.items()}
    return {split: Split(LazyImages(photos, chosen, seen.side), labels[chosen]) for split, chosen in kept.items()}
