"""Test images that are training images as well: an accuracy on those says nothing."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from finetune.data.dataset import Dataset, Split
from finetune.data.lazy import LazyImages, in_threads

_LOOKED_UP = 2_000
"""Photos of the test set that are looked for: so many, evenly drawn. Of images in memory, all are."""
_READ = 20_000
"""Training photos that are read where nothing but reading tells their size: so many of each split, evenly drawn."""
_CHUNK = 256


@dataclass(frozen=True)
class Overlap:
    """`found` of the `looked_up` test images are training or validation images, to the byte; (one of these, its twin)
    as people find them."""

    found: int
    looked_up: int
    example: tuple[str, str]

    def __str__(self) -> str:
        one, twin = self.example
        are = "is" if self.found == 1 else "are"
        return (
            f"{self.found:,} of {self.looked_up:,} test images {are} among the training images too, such as {one}, "
            f"which is {twin}"
        )


def find_overlap(dataset: Dataset) -> Overlap | None:
    """Test images whose pixels, or for photos whose encoded images, are those of a training or validation image; None
    where there is none.

    2,000 test photos at most are looked for. Photos in files are read only where their sizes agree; of records and
    tensorflow_datasets, 20,000 of a split at most are read. The same picture in another encoding is another image here.
    Raises BadImage where a photo cannot be read.
    """
    test = dataset.test
    looked_up = _drawn(len(test), _LOOKED_UP if isinstance(test.images, LazyImages) else len(test))
    sizes = {_size(test, number) for number in looked_up}
    twins: dict[bytes, str] = {}
    for words, split in (("training", dataset.train), ("validation", dataset.validation)):
        if split is None:
            continue
        wanted = _candidates(split, sizes)
        for number, name in zip(wanted, _names(split, wanted), strict=True):
            twins.setdefault(name, _place(split, number, words))
    if not twins:
        return None
    same = [(number, name) for number, name in zip(looked_up, _names(test, looked_up), strict=True) if name in twins]
    if not same:
        return None
    number, name = same[0]
    return Overlap(len(same), len(looked_up), (_place(test, number, "test"), twins[name]))


def _drawn(count: int, most: int) -> list[int]:
    """All numbers below `count`, or `most` of them, evenly."""
    return list(range(count)) if count <= most else [position * count // most for position in range(most)]


def _candidates(split: Split, sizes: set[int | None]) -> list[int]:
    """The images of `split` that may be one of those with `sizes`, None being a size that nobody knows."""
    everyone = range(len(split))
    if not isinstance(split.images, LazyImages):
        return list(everyone) if _size(split, 0) in sizes else []
    if None in sizes or _size(split, 0) is None:
        return _drawn(len(split), _READ)
    return [number for number in everyone if _size(split, number) in sizes]


def _size(split: Split, number: int) -> int | None:
    images = split.images
    if isinstance(images, LazyImages):
        return images.photos.picture_size(int(images.chosen[number]))
    return int(np.prod(images.shape[1:]))


def _names(split: Split, numbers: list[int]) -> Iterable[bytes]:
    images = split.images

    def named(start: int) -> list[bytes]:
        chunk = numbers[start : start + _CHUNK]
        if isinstance(images, LazyImages):
            contents: Iterable[bytes] = (images.photos.picture(int(images.chosen[number])) for number in chunk)
        else:
            contents = (images[number].tobytes() for number in chunk)
        return [hashlib.blake2b(content, digest_size=16).digest() for content in contents]

    return (name for part in in_threads(named, range(0, len(numbers), _CHUNK)) for name in part)


def _place(split: Split, number: int, words: str) -> str:
    if isinstance(split.images, LazyImages):
        return split.images.photos.place(int(split.images.chosen[number]))
    return f"{words} image {number}"
