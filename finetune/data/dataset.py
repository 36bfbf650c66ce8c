"""Labelled images as values, stratified subsets of them, and the share of one of several workers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune.data.geometry import CENTRE, Geometry
from finetune.data.label_sets import label_counts, strata
from finetune.data.lazy import LazyImages
from finetune.errors import FinetuneError, WrongUse
from finetune.text import ImageSize, shape_of

Images = np.ndarray | LazyImages
"""uint8 `[n, height, width, channels]`, in memory (may be a read-only view) or decoded when indexed.

All users need only the shape, and indexing with slices and arrays of indices.
"""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images: uint8 `[n, height, width, channels]` and int64 `[n]`, or of several labels each uint8 0/1
    `[n, labels]`. The channels are grey, RGB or RGBA."""

    images: Images
    labels: np.ndarray

    def __post_init__(self) -> None:
        types = (np.uint8, np.float32) if isinstance(self.images, LazyImages) else (np.uint8,)
        if self.images.ndim != 4 or self.images.shape[3] not in (1, 3, 4) or self.images.dtype not in types:
            found = f"images are {self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"{found}: expected uint8 [n, h, w, 1], [n, h, w, 3] or [n, h, w, 4]")
        known = {1: np.int64, 2: np.uint8}.get(self.labels.ndim)
        if self.labels.shape[:1] != self.images.shape[:1] or known is None or self.labels.dtype != known:
            raise ValueError(
                f"labels are {self.labels.dtype} {list(self.labels.shape)}: expected int64 [{len(self)}], or uint8 "
                f"[{len(self)}, labels]"
            )

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def take(self, indices: np.ndarray) -> "Split":
        """The images at int `indices`, in that order; a copy, unless they are decoded when indexed."""
        images = self.images
        chosen = images.select(indices) if isinstance(images, LazyImages) else images[indices]
        return Split(chosen, self.labels[indices])

    def at(self, size: ImageSize, geometry: Geometry = CENTRE) -> "Split":
        """The same images, of that size if they are photos. Images in memory are cut to the part that `geometry` takes,
        and padded. They keep their size and channels until they are in a batch, so that pixels are not resized twice;
        where pixels are another program's, it gets them whole there."""
        if isinstance(self.images, LazyImages):
            return replace(self, images=self.images.at(size, geometry))
        return self if geometry.exact else replace(self, images=geometry.cut(self.images, shape_of(size)[:2]))


@dataclass(frozen=True)
class Share:
    """The share of worker `index` (from 0) of `of` workers in the same batches."""

    index: int = 0
    of: int = 1

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """The worker's part of a training batch `[batch]`. Parts are equal and in the workers' order.

        Raises ValueError if the batch cannot be divided equally.
        """
        if len(chosen) % self.of:
            raise ValueError(f"a batch of {len(chosen)} has no {self.of} equal parts")
        size = len(chosen) // self.of
        return chosen[self.index * size : (self.index + 1) * size]

    def numbers(self, batches: range) -> range:
        """The worker's batches of an evaluation: every `of`-th one, or none if there are fewer batches than workers."""
        return batches[self.index :: self.of]


WHOLE = Share()


LEFT_OUT = "labels start at 1: class 0 is slim's background, has no images, and is left out"
"""The remark on data with a background class."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification task. Label i means `class_names[i]`, also as column i of several labels an image; `source`
    describes the files for users.

    remarks: sentences for users on how the data was read. skipped: the damaged images that were left out, each with
    the reason. white: as in `Photos`. background: the name of a class 0 without images that the data numbers before its
    own, as slim does; it is left out, unless `with_background` has put it in. excluded: the digest of the list of
    images that were left out on request, `exclusion.Exclusion.digest`. Raises FinetuneError if there are fewer
    than two classes, another class has no training image, or a label has no class.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split | None
    test: Split
    source: str
    remarks: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    white: int | None = None
    background: str | None = None
    excluded: str | None = None

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if classes < 2:
            raise FinetuneError(
                f"{self.source} has {f'one class only, {self.class_names[0]}' if classes else 'no class'}: expected "
                "two or more to tell apart"
            )
        for words, split in (("training", self.train), ("validation", self.validation), ("test", self.test)):
            if split is None:
                continue
            if len(split) == 0:
                raise FinetuneError(f"{self.source} has no {words} images: expected at least one; check the files")
            if split.labels.shape[1:] != ((classes,) if self.multi_label else ()):
                raise FinetuneError(
                    f"{self.source} has {words} labels {list(split.labels.shape)}: expected "
                    f"{f'[{len(split)}, {classes}], a 0 or 1 for each label' if self.multi_label else 'one class each'}"
                )
            least, most = int(split.labels.min()), int(split.labels.max())
            if self.multi_label and most <= 1:
                continue
            if least < 0 or most >= classes:
                raise FinetuneError(
                    f"{self.source} has {words} label {least if least < 0 else most}: expected 0 to {classes - 1}, "
                    f"for its {classes} classes; the files are damaged or of another data set"
                )
        counts = label_counts(self.train.labels, classes)
        if self.class_names[0] == self.background:
            counts[0] = 1
        if not counts.all():
            empty = int(np.argmin(counts))
            what, all_of = ("label", "labels") if self.multi_label else ("class", "classes")
            raise FinetuneError(
                f"{self.source} has no training images of {what} {empty} ({self.class_names[empty]}): expected some of "
                f"each of its {classes} {all_of}; add images of it, or leave the {what} out"
            )

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.train.labels.ndim == 2

    def with_background(self) -> "Dataset":
        """The same images with the data's own numbers: class 0 is the background. ValueError where it has none."""
        if self.background is None or self.class_names[0] == self.background:
            raise ValueError(f"{self.source} has no background class that is left out")
        splits = {
            name: split and Split(split.images, split.labels + 1)
            for name, split in (("train", self.train), ("validation", self.validation), ("test", self.test))
        }
        remark = f"class 0 is {self.background}, which has no images: the labels are the data's own, from 1 on"
        remarks = (*(one for one in self.remarks if one != LEFT_OUT), remark)
        return replace(self, class_names=(self.background, *self.class_names), remarks=remarks, **splits)  # type: ignore[arg-type]

    def lacks_background(self, outputs: int) -> bool:
        """Whether a network with so many outputs has one for the background, and the data leaves it out."""
        left_out = self.background is not None and self.class_names[0] != self.background
        return left_out and outputs == len(self.class_names) + 1

    def fingerprint(self) -> str:
        """SHA-256, in hex, over the pixels and labels of test and training images; equal if two runs saw the same data.

        The seed draws validation images from the same training images, so they add no information. For photos, the
        digest covers the names and sizes of all files and the bytes of up to 2,000 per split, as in
        `LazyImages.update`: reading a million files would cost as much as an epoch.
        """
        digest = hashlib.sha256()
        for split in (self.test, self.train):
            if isinstance(split.images, LazyImages):
                split.images.update(digest)
            else:
                digest.update(repr(split.images.shape).encode())
                for start in range(0, len(split), 1024):
                    digest.update(split.images[start : start + 1024].tobytes())
            digest.update(split.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def stratified_subset(split: Split, examples: int, seed: int) -> Split:
    """`examples` images of `split`, the same number of each class if possible, in the split's order.

    A class with fewer images gives all of them, and the larger classes give more. A remainder goes to classes drawn by
    `seed`, and the images of a class are drawn as well. Raises WrongUse if `examples` is more than the images or less
    than the classes.
    """
    members = _by_class(split)
    if examples > len(split):
        raise WrongUse(
            f"{examples} examples are more than the {len(split)} there are: ask for {len(split)} or fewer with "
            "--examples"
        )
    if examples < len(members):
        raise WrongUse(
            f"{examples} examples are fewer than the {len(members)} classes: expected at least one of each; "
            f"ask for {len(members)} or more with --examples"
        )
    rng = np.random.default_rng(seed)
    left = examples
    chosen = []
    # From the smallest class up, so that all larger classes share what a small one lacks. Shares are rounded down, so
    # the remainder falls to the last classes: classes of equal size are in a random order.
    lots = rng.random(len(members))
    order = sorted(range(len(members)), key=lambda one: (len(members[one]), lots[one]))
    for done, indices in enumerate(members[one] for one in order):
        share = min(len(indices), left // (len(order) - done))
        left -= share
        chosen.append(rng.permutation(indices)[:share])
    return split.take(np.sort(np.concatenate(chosen)))


def few_shot(split: Split, shots: int, seed: int, class_names: Sequence[str]) -> tuple[Split, Split]:
    """(`shots` images of every class, all other images), both in the split's order.

    Each class has its own draw by `seed`. Fewer shots are the first of more: 5 shots are among the 10 of the same seed.
    Raises WrongUse, naming the class, if one has fewer images.
    """
    if split.labels.ndim == 2:
        raise WrongUse(
            f"--few-shot {shots} draws images of one class each, and these have several labels: give --examples N"
        )
    counts = np.bincount(split.labels, minlength=len(class_names))
    if int(counts.min()) < shots:
        least = int(np.argmin(counts))
        raise WrongUse(
            f"--few-shot {shots}: class {class_names[least]} has {counts[least]} training images: expected {shots} of "
            f"every class; ask for {counts[least]} or fewer"
        )
    chosen = np.zeros(len(split), bool)
    for label in range(len(class_names)):
        members = np.flatnonzero(split.labels == label)
        chosen[np.random.default_rng([seed, label]).permutation(members)[:shots]] = True
    return split.take(np.flatnonzero(chosen)), split.take(np.flatnonzero(~chosen))


def hold_out(
    split: Split, fraction: float, seed: int | Sequence[int], *, what: str = "validation"
) -> tuple[Split, Split]:
    """(training, held out): round(`fraction` x n) images are held out, at least one, drawn by `seed`.

    Each class gives its own fraction, rounded so that the total is right, and keeps at least one training image. Both
    parts keep the split's order. `fraction` lies in (0, 1); `what` names the purpose of the images. Raises WrongUse if
    too few images would remain.
    """
    members = _by_class(split)
    sizes = np.array([len(one) for one in members])
    wanted = max(1, round(fraction * len(split)))
    if not 0 < fraction < 1 or wanted > int(np.sum(sizes - 1)):
        advice = "lower --validation (0 holds nothing out) or raise --examples"
        advice = advice if what == "validation" else f"lower --{what}, or bring {what} images of your own"
        raise WrongUse(
            f"holding out {fraction:g} of {len(split)} images for {what} leaves too few of {len(members)} classes "
            f"to train on: {advice}"
        )
    rng = np.random.default_rng(seed)
    quota = np.minimum(sizes - 1, np.floor(fraction * sizes)).astype(np.int64)
    # Largest remainder, ties at random. The loop repeats only if classes of one image could give none.
    by_remainder = np.lexsort((rng.random(len(sizes)), quota - fraction * sizes))
    while (short := wanted - int(quota.sum())) > 0:
        able = by_remainder[(quota < sizes - 1)[by_remainder]]
        quota[able[:short]] += 1
    held = np.zeros(len(split), bool)
    for indices, count in zip(members, quota, strict=True):
        held[rng.permutation(indices)[:count]] = True
    return split.take(np.flatnonzero(~held)), split.take(np.flatnonzero(held))


def _by_class(split: Split) -> list[np.ndarray]:
    """The indices of the images of each class, in the order of the labels; of several labels, by `strata`."""
    of = strata(split.labels)
    return [np.flatnonzero(of == label) for label in np.unique(of)]
