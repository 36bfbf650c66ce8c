"""Image files named by a user, without labels, read as a run reads its own data."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.data import decoding
from finetune.data.dataset import Split
from finetune.data.lazy import LazyImages, PhotoFiles, Progress, inspect_photos
from finetune.data.sources.image_folder import images_below, skipped_files
from finetune.errors import FinetuneError
from finetune.text import printable


@dataclass(frozen=True, eq=False)
class NativeImages(LazyImages):
    """Image files brought to `native`, the (height, width) in px of a data set's images in memory.

    The largest centre part of that aspect ratio is taken. Evaluation then enlarges it as it does the data set's own
    images. A file of exactly that size is read pixel by pixel.
    """

    native: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(n, height, width, 3)`."""
        return len(self.chosen), *self.native, 3

    def __getitem__(self, key: "slice | np.ndarray") -> np.ndarray:
        """The images at a slice or at int indices, decoded. Raises BadImage."""
        return self._decoded(self.chosen[key], lambda _, image: decoding.centre(image, self.native))

    def at(self, side: int) -> "NativeImages":
        """These images unchanged: they keep their size until they are in a batch, as images in memory do."""
        return self


@dataclass(frozen=True)
class ImageFiles(PhotoFiles):
    """Photos each of which has a path of its own."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, number: int) -> str:
        """Its path, printable."""
        return printable(str(self.paths[number]))

    def path(self, number: int) -> Path:
        """Its path."""
        return self.paths[number]


@dataclass(frozen=True, eq=False)
class NamedImages:
    """The images that can be read.

    names: their paths. split: the images; all labels are 0. skipped: the damaged images that were left out, each with
    the reason. remarks: which other files were skipped.
    """

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
) -> NamedImages:
    """The image files in `places`, and those in the folders among them. Each folder is read in sorted order.

    A file in `places` is read whatever its name. In a folder, hidden files and files that are not images are skipped.
    `native`: the (height, width) of the images of the run's data set; None if those are photos. Raises FinetuneError
    naming missing and damaged files; with `skip_bad`, damaged files are left out instead.
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
    remarks = skipped_files(ignored)
    if not paths:
        named = ", ".join(printable(str(place)) for place in places)
        raise FinetuneError(f"{named} holds no images{f' ({remarks[0]})' if remarks else ''}: check the folder")
    files = ImageFiles(tuple(paths))
    seen = inspect_photos(files, skip_bad=skip_bad, progress=on_scan)
    chosen = np.flatnonzero(seen.good)
    images = LazyImages(files, chosen, seen.side)
    if native is not None:
        images = NativeImages(files, chosen, max(native), native=native)
    split = Split(images, np.zeros(len(chosen), np.int64))
    return NamedImages(tuple(files.name(int(number)) for number in chosen), split, seen.bad, remarks)
