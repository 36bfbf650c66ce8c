"""Images that stay where they are, encoded, until a batch needs them: memory does not grow with their pixels."""

import functools
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from PIL import Image

from finetune.data import crops, decoding
from finetune.process import cores

_READ_WHOLE = 2_000
"""Images whose bytes go into a fingerprint; of more, so many evenly drawn ones, and of all the names and sizes."""


class Photos(Protocol):
    """Encoded images of any size, numbered from 0, each read when it is asked for."""

    def __len__(self) -> int:
        """How many there are."""

    def open(self, number: int) -> Image.Image:
        """The image with its header read; decoding.BadImage where it is none."""

    def name(self, number: int) -> str:
        """Where it lies, within the data set: the same wherever the data set lies."""

    def place(self, number: int) -> str:
        """Where it lies, for messages."""

    def content(self, number: int) -> bytes:
        """Its bytes as they are stored."""

    def bytes_of(self, number: int) -> int:
        """How many these are, without reading them."""

    def picture(self, number: int) -> bytes:
        """The encoded image alone, without what is stored with it."""

    def picture_size(self, number: int) -> int | None:
        """How many bytes that is; None where only reading tells."""


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Those of `photos` numbered `chosen` (int64 `[n]`), seen as uint8 `[n, side, side, 3]`: each one's centre square.

    An index reads, decodes and resizes; `select` and `at` do not. `draft` as in `decoding.part`.
    """

    photos: Photos
    chosen: np.ndarray
    side: int
    draft: bool = True

    ndim = 4
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(n, side, side, 3)`."""
        return len(self.chosen), self.side, self.side, 3

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, key: "slice | np.ndarray") -> np.ndarray:
        """The images at a slice or at int indices, decoded. Raises BadImage."""
        return self._decoded(self.chosen[key], lambda _, image: decoding.square(image, self.side, draft=self.draft))

    def select(self, indices: np.ndarray) -> "LazyImages":
        """A part of them, without reading any."""
        return replace(self, chosen=self.chosen[indices])

    def at(self, side: int) -> "LazyImages":
        """The same images at another side in px."""
        return replace(self, side=side)

    def random_crops(self, indices: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
        """Random parts of the images at int `indices`, by `crops.draw` from (`seed`, index). Raises BadImage."""

        def crop(position: int, image: Image.Image) -> np.ndarray:
            box, mirrored = crops.draw(decoding.upright_size(image), (*seed, int(indices[position])))
            pixels = decoding.part(image, box, self.side)
            return pixels[:, ::-1] if mirrored else pixels

        return self._decoded(self.chosen[indices], crop)

    def _decoded(
        self,
        numbers: np.ndarray,
        view: Callable[[int, Image.Image], np.ndarray],
        size: tuple[int, int] | None = None,
    ) -> np.ndarray:
        out = np.empty((len(numbers), *(size or (self.side, self.side)), 3), np.uint8)

        def fill(position: int) -> None:
            number = int(numbers[position])
            with decoding.naming(self.photos.place(number)), self.photos.open(number) as image:
                out[position] = view(position, image)

        for _ in in_threads(fill, range(len(numbers))):
            pass
        return out

    def update(self, digest: "hashlib._Hash") -> None:
        """Feed names and sizes of all images, and the bytes of up to 2,000, evenly drawn, into `digest`.

        A photo that was edited, and kept its name and its size to the byte, is noticed where it is one of these.
        """
        for number in self.chosen:
            digest.update(f"{self.photos.name(int(number))}\0{self.photos.bytes_of(int(number))}\n".encode())
        step = max(len(self) / _READ_WHOLE, 1)
        for position in range(min(len(self), _READ_WHOLE)):
            digest.update(hashlib.sha256(self.photos.content(int(self.chosen[int(position * step)]))).digest())


def random_crops(
    images: "np.ndarray | LazyImages", indices: np.ndarray, side: int, seed: tuple[int, int]
) -> np.ndarray:
    """As `LazyImages.random_crops`, at `side` px, of images in memory as well: uint8 `[n, side, side, 3]`."""
    if isinstance(images, LazyImages):
        return images.at(side).random_crops(indices, seed)
    height, width = images.shape[1:3]
    out = np.empty((len(indices), side, side, 3), np.uint8)
    for position, index in enumerate(indices):
        box, mirrored = crops.draw((width, height), (*seed, int(index)))
        pixels = decoding.part(Image.fromarray(np.ascontiguousarray(images[index])), box, side)
        out[position] = pixels[:, ::-1] if mirrored else pixels
    return out


def in_threads(work: Callable[[int], Any], numbers: range) -> Any:
    """`work` of each number, in their order, on as many threads as there are cores: Pillow decodes outside the GIL."""
    return _pool().map(work, numbers)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="decode")
