"""Every image of a data set decoded once, and the few numbers that are kept of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from finetune.data import decoding
from finetune.data.dataset import Dataset, Split
from finetune.data.exclusion import image_name, pixel_digest
from finetune.data.lazy import LazyImages, Progress, in_threads

SIDE = 256
"""px. Larger images are brought to this shorter side before their sharpness is measured: it depends on the scale."""
THUMBNAIL = 16
"""Side of the grey picture that is kept of every image, in px."""
_GREY = 2 * THUMBNAIL
_AT_ONCE = 512
_COSINES = np.cos(np.pi * (np.arange(_GREY) + 0.5) * np.arange(8)[:, None] / _GREY).astype(np.float32)
"""The first 8 rows of the discrete cosine transform (DCT-II) of 32 values, but for their scale."""

RECORD = np.dtype(
    [
        *(("digest", "V16"), ("hash", np.uint64), ("thumbnail", np.uint8, (THUMBNAIL, THUMBNAIL))),
        *(("height", np.int32), ("width", np.int32), ("contrast", np.float32)),
        *(("sharpness", np.float32), ("dark", np.uint8), ("bright", np.uint8)),
    ]
)
"""What is kept of an image.

- digest: `exclusion.pixel_digest`. hash: a 64-bit DCT hash, see `dct_hash`.
- height, width: px. contrast: the standard deviation of its grey values, in [0, 128].
- sharpness: the variance of the Laplacian of its grey values (Pech-Pacheco et al. 2000).
- dark, bright: the grey values that 99 % and 5 % of the pixels do not exceed.
"""


@dataclass(frozen=True, eq=False)
class Pool:
    """All images of a data set, numbered through: those of training, then of validation, then of test.

    labels: int64 `[n]`, of `class_names`; where images may have several labels, each set of them that occurs is a
    class. split: the position of an image's split in `names_of_splits`, int8 `[n]`.
    """

    dataset: Dataset
    parts: Mapping[str, Split]
    labels: np.ndarray
    split: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> "Pool":
        """The pool of `dataset`."""
        named = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        parts = {name: split for name, split in named.items() if split is not None}
        labels = np.concatenate([split.labels for split in parts.values()])
        which = np.repeat(np.arange(len(parts), dtype=np.int8), [len(split) for split in parts.values()])
        names = dataset.class_names
        if dataset.multi_label:
            sets, labels = np.unique(labels, axis=0, return_inverse=True)
            names = tuple(", ".join(names[at] for at in np.flatnonzero(one)) or "no label" for one in sets)
        return cls(dataset, parts, labels.ravel(), which, names)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names_of_splits(self) -> list[str]:
        """Of `train`, `validation` and `test`, those that there are."""
        return list(self.parts)

    def place(self, number: int) -> tuple[str, int]:
        """(split, position in it) of an image."""
        at = int(self.split[number])
        return self.names_of_splits[at], number - int(np.searchsorted(self.split, at))

    def name(self, number: int) -> str:
        """What an image is called in a list of images to leave out (`finetune.data.exclusion`)."""
        split, position = self.place(number)
        return image_name(split, self.parts[split], position)

    def pixels(self, number: int) -> np.ndarray:
        """A whole image as a network's pixels are made of it: uint8 `[height, width, channels]`. Raises BadImage."""
        split, position = self.place(number)
        images = self.parts[split].images
        if not isinstance(images, LazyImages):
            return np.asarray(images[position])
        photos, one = images.photos, int(images.chosen[position])
        with decoding.naming(photos.place(one)), photos.ready(one) as image:
            return decoding.whole(image, 4 if decoding.channels_of(image) == 4 else 3)

    def parts_of(self, numbers: np.ndarray) -> dict[str, Split]:
        """The images at sorted int `numbers`, by split; splits without one of them are missing."""
        found = {}
        for at, (name, split) in enumerate(self.parts.items()):
            chosen = numbers[self.split[numbers] == at]
            if len(chosen):
                found[name] = split.take(chosen - int(np.searchsorted(self.split, at)))
        return found


@dataclass(frozen=True, eq=False)
class Measured:
    """records: `RECORD` `[n]`, zeros for images that cannot be read. bad: these, with the reason, by their number."""

    records: np.ndarray
    bad: dict[int, str]

    def good(self) -> np.ndarray:
        """bool `[n]`: which images were read."""
        good = np.ones(len(self.records), bool)
        good[list(self.bad)] = False
        return good


def measure(pool: Pool, progress: Progress | None = None) -> Measured:
    """Decode every image once, on all cores. Some 330 bytes are kept of each, and a few images are in memory at a time.

    `progress` receives the number of images done, and of all.
    """
    records, bad = np.zeros(len(pool), RECORD), dict[int, str]()

    def one(number: int) -> None:
        try:
            records[number] = measured(pool.pixels(number))
        except decoding.BadImage as error:
            bad[number] = error.reason

    with decoding.silent_warnings():
        for start in range(0, len(pool), _AT_ONCE):
            block = range(start, min(start + _AT_ONCE, len(pool)))
            for _ in in_threads(one, block):
                pass
            if progress is not None:
                progress(block.stop, len(pool))
    return Measured(records, bad)


def measured(pixels: np.ndarray) -> tuple[Any, ...]:
    """The `RECORD` of one image, uint8 `[height, width, channels]`. Transparent pixels count as white."""
    height, width, channels = pixels.shape
    grey = decoding.converted(Image.fromarray(pixels[..., 0] if channels == 1 else np.ascontiguousarray(pixels)), 1)
    # Of an image with a long side of pixels, Pillow's antialiasing takes all pixels that a new one covers.
    small = grey.resize((_GREY, _GREY), Image.Resampling.BILINEAR)
    values = np.asarray(small, np.float32)
    if min(grey.size) > SIDE:
        scale = SIDE / min(grey.size)
        grey = grey.resize((round(grey.width * scale), round(grey.height * scale)), Image.Resampling.BILINEAR)
    counts = np.cumsum(grey.histogram())
    dark, bright = np.searchsorted(counts, (0.99 * counts[-1], 0.05 * counts[-1]))
    full = np.asarray(grey, np.float32)
    thumbnail = np.rint(values.reshape(THUMBNAIL, 2, THUMBNAIL, 2).mean(axis=(1, 3)))
    return (
        pixel_digest(pixels),
        dct_hash(values),
        thumbnail.astype(np.uint8),
        height,
        width,
        full.std(),
        laplacian_variance(full),
        dark,
        bright,
    )


def dct_hash(grey: np.ndarray) -> int:
    """A perceptual hash of grey values, float32 `[32, 32]`: 64 bits that change little when an image is scaled,
    compressed or made brighter.

    Each bit says whether one of the 8 x 8 lowest frequencies of the discrete cosine transform lies above their median
    (Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions, section 3.2.1).
    """
    frequencies = (_COSINES @ grey @ _COSINES.T).reshape(-1)
    return int(np.packbits(frequencies > np.median(frequencies)).view(">u8")[0])


def laplacian_variance(grey: np.ndarray) -> float:
    """The variance of the four-neighbour Laplacian of grey values `[height, width]`; 0 below 3 x 3 px."""
    if min(grey.shape) < 3:
        return 0.0
    centre = grey[1:-1, 1:-1]
    return float(np.var(grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre))


def names(pool: Pool, numbers: Sequence[int]) -> list[str]:
    """The names of images."""
    return [pool.name(int(number)) for number in numbers]
