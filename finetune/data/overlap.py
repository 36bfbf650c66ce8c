"""Test images that are also training images: an accuracy on those is meaningless."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np

from finetune.data.dataset import Dataset, Images, Split
from finetune.data.lazy import LazyImages, in_threads

_LOOKED_UP = 2_000
"""The most test photos that are checked, evenly drawn. Images in memory are all checked."""
_READ = 20_000
"""The most training photos per split that are read if their size is not known without reading; evenly drawn."""
_CHUNK = 256


@dataclass(frozen=True)
class Overlap:
    """`found` of the `looked_up` test images are identical to training or validation images, to the byte.

    example: the places of one of these and of its twin, as users find them.
    """

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
    """Test images that are identical to a training or validation image; None if there are none.

    Images in memory are compared by their pixels, photos by their encoded bytes: the same picture in another encoding
    counts as another image. At most 2,000 test photos are checked. Photos in files are read only if their sizes agree;
    of TFRecords and tensorflow_datasets, at most 20,000 per split are read. Raises BadImage if a photo cannot be read.
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
    """All numbers below `count`, or `most` of them, evenly spaced."""
    return list(range(count)) if count <= most else [position * count // most for position in range(most)]


def _candidates(split: Split, sizes: set[int | None]) -> list[int]:
    """The images of `split` that may equal one with a size in `sizes`; None is an unknown size."""
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
    """A digest of each image; made in chunks, each on a thread."""

    def named(start: int) -> list[bytes]:
        contents = (_content(split.images, number) for number in numbers[start : start + _CHUNK])
        return [hashlib.blake2b(content, digest_size=16).digest() for content in contents]

    return chain.from_iterable(in_threads(named, range(0, len(numbers), _CHUNK)))


def _content(images: Images, number: int) -> bytes:
    if isinstance(images, LazyImages):
        return images.photos.picture(int(images.chosen[number]))
    content: bytes = images[number].tobytes()
    return content


def _place(split: Split, number: int, words: str) -> str:
    if isinstance(split.images, LazyImages):
        return split.images.photos.place(int(split.images.chosen[number]))
    return f"{words} image {number}"
