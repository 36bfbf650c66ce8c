"""Photos that stay encoded in their files until a batch needs them: memory does not grow with their pixels."""

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from finetune.data import decoding
from finetune.data.decoding import Box
from finetune.data.geometry import CENTRE, Geometry
from finetune.process import cores
from finetune.text import ImageSize, shape_of

AREA = (0.08, 1.0)
"""Smallest and largest share of the photo that a random crop covers (Szegedy et al. 2015, section 6; the numbers are
those of torchvision)."""
ASPECT = (3 / 4, 4 / 3)
"""Smallest and largest ratio of width to height of a random crop."""
_TRIES = 10
_READ_WHOLE = 2_000
"""Images whose bytes go into a fingerprint. Of larger sets so many are drawn evenly, and all names and sizes count."""

Progress = Callable[[int, int | None], None]
"""Called as work goes on, with the amount done and the total, which is None if it is not known."""


class Photos(ABC):
    """Encoded images of any size, numbered from 0. Each is read when it is asked for.

    white: the value that becomes 255 in those of more than 8 bits that do not declare it; None if it is not known.
    channels: the numbers of channels that they have (1, 3, 4), as far as they were inspected.
    """

    white: int | None = None
    channels: tuple[int, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def name(self, number: int) -> str:
        """Its place within the data set: the same wherever the data set lies."""

    @abstractmethod
    def content(self, number: int) -> bytes:
        """Its bytes as they are stored."""

    def mixed(self, numbers: np.ndarray) -> np.ndarray:
        """The images at int `numbers`, in an order that depends only on their names: int64."""
        digests = (hashlib.blake2b(self.name(int(one)).encode(), digest_size=8).digest() for one in numbers)
        keys = np.frombuffer(b"".join(digests), np.dtype(">u8"))
        return np.asarray(numbers[np.argsort(keys, kind="stable")], np.int64)

    def place(self, number: int) -> str:
        """Its place, for messages."""
        return self.name(number)

    def open(self, number: int) -> Image.Image:
        """The image with its header read. Raises decoding.BadImage if it is none."""
        return decoding.opened(self.content(number), self.place(number))

    def ready(self, number: int) -> Image.Image:
        """As `open`, and to be decoded with the images' own white."""
        image = self.open(number)
        image.info["white"] = self.white
        return image

    def reading(self) -> str:
        """What the pixels depend on besides `content`: the same bytes are other pixels with another white."""
        return "" if self.white is None else f" white {self.white}"

    def bytes_of(self, number: int) -> int:
        """The length of `content`."""
        return len(self.content(number))

    def picture(self, number: int) -> bytes:
        """The encoded image alone, without what is stored with it."""
        return self.content(number)

    def picture_size(self, number: int) -> int | None:
        """The length of `picture`; None if it is not known without reading it."""
        return None


@dataclass(frozen=True, eq=False)
class LazyImages:
    """The photos numbered `chosen` (int64 `[n]`) as images of the size `side`: the part of each that `geometry` takes.
    They are uint8; float32 in [0, 255] where the geometry has the pixels of another program.

    Indexing reads, decodes and resizes; `select` and `at` do not. `draft` as in `decoding.centre`.

    native: (height, width) in px, or (height, width, channels), of a data set's images in memory, if the photos are
    brought to these; evaluation enlarges them as it does the data set's own images. A photo of exactly that size is
    read pixel by pixel.
    """

    photos: Photos
    chosen: np.ndarray
    side: ImageSize
    draft: bool = True
    native: tuple[int, ...] | None = None
    geometry: Geometry = CENTRE

    ndim = 4

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 for pixels of another program, which are not rounded."""
        return np.dtype(np.float32 if self.geometry.exact else np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(n, height, width, channels)`."""
        height, width, channels = (*self.native, 3)[:3] if self.native else shape_of(self.side)
        return len(self.chosen), height, width, channels

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, key: "slice | np.ndarray") -> np.ndarray:
        """The images at a slice or at int indices, decoded. Raises BadImage."""
        size = self.shape[1:]
        return self.views(
            self.chosen[key], lambda _, image: decoding.centre(image, size, self.geometry, draft=self.draft)
        )

    def select(self, indices: np.ndarray) -> "LazyImages":
        """The images at int `indices`, without reading any."""
        return replace(self, chosen=self.chosen[indices])

    def at(self, size: ImageSize, geometry: Geometry = CENTRE) -> "LazyImages":
        """The same images of another size. `native` images keep theirs until they are in a batch; where pixels are
        another program's, it gets them whole there."""
        if self.native:
            return replace(self, geometry=CENTRE if geometry.exact else geometry)
        return replace(self, side=size, geometry=geometry)

    def views(self, numbers: np.ndarray, view: Callable[[int, Image.Image], np.ndarray]) -> np.ndarray:
        """Of this shape and type: `view(position, photo)` of the photos with those numbers. Raises BadImage."""
        out = np.empty((len(numbers), *self.shape[1:]), self.dtype)

        def fill(position: int) -> None:
            number = int(numbers[position])
            with decoding.naming(self.photos.place(number)), self.photos.ready(number) as image:
                out[position] = view(position, image)

        for _ in in_threads(fill, range(len(numbers))):
            pass
        return out

    def update(self, digest: "hashlib._Hash") -> None:
        """Add the names and sizes of all images, and the bytes of up to 2,000, evenly drawn, to `digest`.

        An edited photo that keeps its name and its size to the byte is noticed only if it is one of these.
        """
        if self.photos.white is not None:
            digest.update(f"white {self.photos.white}\n".encode())
        for number in self.chosen:
            digest.update(f"{self.photos.name(int(number))}\0{self.photos.bytes_of(int(number))}\n".encode())
        step = max(len(self) / _READ_WHOLE, 1)
        for position in range(min(len(self), _READ_WHOLE)):
            digest.update(hashlib.sha256(self.photos.content(int(self.chosen[int(position * step)]))).digest())


def random_crops(
    images: "np.ndarray | LazyImages",
    indices: np.ndarray,
    size: ImageSize,
    seed: tuple[int, int],
    *,
    copies: np.ndarray | None = None,
    flip: bool = True,
) -> np.ndarray:
    """Random crops of the images at int `indices`, by `draw_crop` from (`seed`, index): uint8, `n` images of that size.

    copies: int `[n]`, how often each image came before in the epoch; every copy has a crop of its own. flip: mirror
    half of them. Raises BadImage for photos.
    """
    shape = shape_of(size)

    def crop(position: int, image: Image.Image) -> np.ndarray:
        copy = () if copies is None or not copies[position] else (int(copies[position]),)
        seeds = (*seed, int(indices[position]), *copy)
        box, mirrored = draw_crop(decoding.upright_size(image), seeds, shape.width / shape.height)
        pixels = decoding.part(image, box, shape)
        return pixels[:, ::-1] if mirrored and flip else pixels

    if isinstance(images, LazyImages):
        return images.at(size).views(images.chosen[indices], crop)
    grey = images.shape[3] == 1  # Pillow has no axis for one channel
    in_memory = (
        Image.fromarray(np.ascontiguousarray(images[index, ..., 0] if grey else images[index])) for index in indices
    )
    return np.stack([crop(position, image) for position, image in enumerate(in_memory)])


def draw_crop(size: tuple[int, int], seed: tuple[int, ...], shape: float = 1.0) -> tuple[Box, bool]:
    """Inception's random crop: its box within a photo of `size` (width, height) in px, and whether to mirror it.

    The area is uniform within AREA, the logarithm of the aspect ratio within that of ASPECT, times the aspect ratio
    `shape` of the result, the place within the photo. A crop that does not fit is drawn again, up to ten times; after
    that, the largest centre part of an allowed aspect ratio is taken. `seed` holds the run's seed, the epoch and the
    image's number: the draw is the same in every batch, thread and process.
    """
    width, height = size
    rng = np.random.default_rng(seed)
    mirrored = bool(rng.random() < 0.5)
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*AREA)
        aspect = shape * math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
            return (left, top, left + across, top + down), mirrored
    across = max(min(width, round(height * ASPECT[1] * shape)), 1)
    down = max(min(height, round(width / (ASPECT[0] * shape))), 1)
    left, top = (width - across) // 2, (height - down) // 2
    return (left, top, left + across, top + down), mirrored


def in_threads(work: Callable[[int], Any], numbers: range) -> Any:
    """`work` of each number, in their order, on one thread per core: Pillow decodes outside the GIL."""
    return _pool().map(work, numbers)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="decode")
