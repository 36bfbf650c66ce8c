"""Files that are images: those below a folder, and those that a user names without labels."""

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data import decoding
from finetune.data.dataset import Split
from finetune.data.lazy import LazyImages, Photos, Progress
from finetune.data.photo_scan import inspect_photos
from finetune.errors import FinetuneError
from finetune.text import printable

_HEAD_BYTES = 16
_LEFT_BY_SYSTEMS = {
    "__macosx",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
}


class PhotoFiles(Photos):
    """Photos that are a file each, all below `root` if it is given.

    Their paths lie in one string of bytes: a million take some 40 MB.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._root = os.path.join(root, "") if root else ""
        self._text, self._ends = bytearray(), array("q", [0])

    def add(self, path: str) -> None:
        """Append an image."""
        self._text += os.fsencode(path.removeprefix(self._root))
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _below(self, number: int) -> str:
        return os.fsdecode(bytes(self._text[self._ends[number] : self._ends[number + 1]]))

    def name(self, number: int) -> str:
        """Its path below the root, printable."""
        return printable(self._below(number))

    def place(self, number: int) -> str:
        """Its path, printable."""
        return printable(self._root + self._below(number))

    def path(self, number: int) -> Path:
        """Its path."""
        return Path(self._root + self._below(number))

    def open(self, number: int) -> Image.Image:
        """The image with its header read, which leaves the rest of the file unread."""
        return decoding.opened(self.path(number), self.place(number))

    def content(self, number: int) -> bytes:
        """The file's bytes."""
        return self.path(number).read_bytes()

    def bytes_of(self, number: int) -> int:
        """The file's size."""
        return self.path(number).stat().st_size

    def picture_size(self, number: int) -> int | None:
        """The file's size."""
        return self.bytes_of(number)


def is_visible(name: str) -> bool:
    """Whether it is the user's: not hidden, and no folder that a Mac, Windows or a network drive keeps for itself."""
    return not name.startswith(".") and name.lower() not in _LEFT_BY_SYSTEMS


def images_below(folder: Path, ignored: "Counter[str]", above: frozenset[str] = frozenset()) -> Iterator[str]:
    """The paths of the images in `folder` and all folders in it, sorted within each.

    What is not visible is skipped. Other files are counted in `ignored` by suffix. Links are followed, except those to
    one of the folders `above`, which contain `folder`.
    """
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that contains it
        return
    with os.scandir(folder) as scanned:
        entries = sorted((entry for entry in scanned if is_visible(entry.name)), key=lambda entry: entry.name)
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.is_dir():
            yield from images_below(Path(entry.path), ignored, above | {real})
        elif is_image(entry):
            yield entry.path
        else:
            ignored[suffix or "without suffix"] += 1


def is_image(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry of a folder, which is no folder, is an image: by its suffix, else by how it begins."""
    suffix = os.path.splitext(entry.name)[1].lower()
    return suffix in decoding.SUFFIXES or (entry.is_file() and _begins_as_image(entry.path))


def _begins_as_image(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
    return head.startswith(starts) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP") or head[4:12] == b"ftypavif"


def skipped_files(ignored: "Counter[str]") -> tuple[str, ...]:
    """A sentence on the files that `images_below` counted; none if there were none."""
    count = sum(ignored.values())
    what = "1 file that is no image" if count == 1 else f"{count} files that are no images"
    return (f"skipped {what}{of_kinds(ignored)}",) if count else ()


def of_kinds(ignored: "Counter[str]") -> str:
    """The kinds of the files in `ignored` in brackets, the most frequent first; empty if there are none."""
    by_count = sorted(ignored.items(), key=lambda pair: (-pair[1], pair[0]))
    kinds = ", ".join(f"{printable(suffix)} {count}" for suffix, count in by_count[:4])
    return f" ({kinds}{', ...' if len(ignored) > 4 else ''})" if ignored else ""


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
    native: tuple[int, ...] | None,
    white: int | None = None,
    skip_bad: bool = False,
    on_scan: Progress | None = None,
) -> NamedImages:
    """The image files in `places`, and those in the folders among them. Each folder is read in sorted order.

    A file in `places` is read whatever its name. In a folder, hidden files and files that are not images are skipped.
    `native`: the (height, width), or (height, width, channels), of the images of the run's data set; None if those are
    photos. `white`: as in `lazy.Photos`. Raises FinetuneError naming missing and damaged files; with `skip_bad`, those
    are left out instead.
    """
    ignored, files = Counter[str](), PhotoFiles()
    files.white = white
    for place in places:
        if place.is_dir():
            for path in images_below(place, ignored):
                files.add(path)
        elif os.path.lexists(place):
            files.add(str(place))
        else:
            raise FinetuneError(
                f"{printable(str(place))}: there is nothing of that name; expected an image or a folder"
            )
    remarks = skipped_files(ignored)
    if not len(files):
        named = ", ".join(printable(str(place)) for place in places)
        raise FinetuneError(f"{named} holds no images{f' ({remarks[0]})' if remarks else ''}: check the folder")
    seen = inspect_photos(files, skip_bad=skip_bad, progress=on_scan)
    chosen = np.flatnonzero(seen.good)
    split = Split(LazyImages(files, chosen, seen.side, native=native), np.zeros(len(chosen), np.int64))
    return NamedImages(tuple(files.name(int(number)) for number in chosen), split, seen.bad, remarks)
