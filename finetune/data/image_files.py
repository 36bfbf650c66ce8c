"""Image files that somebody names, without labels: as the data of a run sees its own."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data import decoding, scanning
from finetune.data.dataset import Split
from finetune.data.lazy import LazyImages
from finetune.data.sources.assembly import Progress
from finetune.data.sources.image_folder import images_below, passed_over
from finetune.errors import FinetuneError
from finetune.text import printable


@dataclass(frozen=True, eq=False)
class NativeImages(LazyImages):
    """Image files brought to the size of a data set's images in memory, (height, width) in px: their largest centre
    part of that shape. Evaluation then enlarges them as it does the data set's own; a file of just that size is taken
    pixel by pixel."""

    native: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(n, height, width, 3)`."""
        return len(self.chosen), *self.native, 3

    def __getitem__(self, key: "slice | np.ndarray") -> np.ndarray:
        """The images at a slice or at int indices, decoded. Raises BadImage."""
        return self._decoded(self.chosen[key], lambda _, image: decoding.centre(image, self.native), self.native)

    def at(self, side: int) -> "NativeImages":
        """The same: they keep their size until they are in a batch, as images in memory do."""
        return self


@dataclass(frozen=True)
class ImageFiles:
    """Files by number: `Photos` of which each has a path of its own."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, number: int) -> Image.Image:
        """The image with its header read."""
        return decoding.opened(self.paths[number], self.place(number))

    def name(self, number: int) -> str:
        """Its path, with what would move a cursor written out."""
        return printable(str(self.paths[number]))

    def place(self, number: int) -> str:
        """The same, for messages."""
        return self.name(number)

    def content(self, number: int) -> bytes:
        """The file's bytes."""
        return self.paths[number].read_bytes()

    def bytes_of(self, number: int) -> int:
        """The file's size."""
        return self.paths[number].stat().st_size

    def picture(self, number: int) -> bytes:
        """The file's bytes."""
        return self.content(number)

    def picture_size(self, number: int) -> int | None:
        """The file's size."""
        return self.bytes_of(number)


@dataclass(frozen=True, eq=False)
class Named:
    """The images that can be read. names: their paths. split: without labels, which are all 0. skipped: what was left
    out as damaged, each with the reason; remarks: what else was passed over."""

    names: tuple[str, ...]
    split: Split
    skipped: tuple[str, ...]
    remarks: tuple[str, ...]


def read_images(
    places: Sequence[Path],
    *,
    native: tuple[int, int] | None,
    skip_bad: bool = False,
    on_scan: Progress | None = None,
) -> Named:
    """The image files `places`, and those in the folders among them, each folder walked in sorted order.

    A file that is named is taken, whatever its name; in a folder, hidden files and those that are no images are passed
    over. `native`: the (height, width) of the images of the data set they stand beside, None where these are photos.
    Raises FinetuneError naming what is not there or damaged; damaged ones are left out with `skip_bad`.
    """
    ignored: Counter[str] = Counter()
    paths: list[Path] = []
    for place in places:
        if place.is_dir():
            paths += map(Path, images_below(place, ignored))
        elif os.path.lexists(place):
            paths.append(place)
        else:
            raise FinetuneError(
                f"{printable(str(place))}: there is nothing of that name; expected an image or a folder"
            )
    remarks = passed_over(ignored)
    if not paths:
        named = ", ".join(printable(str(place)) for place in places)
        raise FinetuneError(f"{named} holds no images{f' ({remarks[0]})' if remarks else ''}: check the folder")
    files = ImageFiles(tuple(paths))
    seen = scanning.inspect(files, skip_bad=skip_bad, progress=on_scan)
    chosen = np.flatnonzero(seen.good)
    images = LazyImages(files, chosen, seen.side)
    if native is not None:
        images = NativeImages(files, chosen, max(native), native=native)
    split = Split(images, np.zeros(len(chosen), np.int64))
    return Named(tuple(files.name(int(number)) for number in chosen), split, seen.bad, remarks)
