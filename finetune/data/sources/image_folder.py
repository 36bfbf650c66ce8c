"""A folder of images per class. The images are read from disk when they are needed."""

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np

from finetune.data import decoding
from finetune.data.dataset import Dataset
from finetune.data.lazy import PhotoFiles
from finetune.data.sources.assembly import ReadOptions, assemble, photo_splits
from finetune.errors import FinetuneError
from finetune.text import printable

_SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
_HEAD_BYTES = 16


def read_folder(root: Path, options: ReadOptions) -> Dataset:
    """The photos below `root`, which holds the class folders, or one folder of class folders per split.

    The split folders are `train/` and optionally `val/` (or `validation/`) and `test/`. The classes are the names of
    the training folders, sorted. Folders in a class folder belong to it. Links are followed. Hidden files and files
    that are no images are skipped. Images are ordered by a hash of their paths: in the order of a listing, every
    batch of an evaluation would be of one class, and batch statistics would be worthless. Raises FinetuneError if
    there are no such folders, a split has other classes than `train/`, or photos are damaged.
    """
    split_folders = _split_folders(root)
    classes = _folders(split_folders["train"])
    if len(classes) < 2:
        raise FinetuneError(_too_few(split_folders["train"], classes))
    for split, folder in split_folders.items():
        if split != "train":
            _check_classes(folder, classes, split_folders["train"])
    paths, labels, ignored = _Paths(root), array("q"), Counter[str]()
    members = {}
    for split, folder in split_folders.items():
        begin = len(labels)
        for label, name in enumerate(classes):
            for path in images_below(folder / name, ignored):
                paths.add(path)
                labels.append(label)
        members[split] = begin + paths.mixed(begin)
        if begin == len(labels):
            raise FinetuneError(f"the class folders in {folder} hold no images{_of_kinds(ignored)}: check the folder")
    splits, skipped = photo_splits(options, paths, np.array(labels, np.int64), members)
    own = [f"{folder.name}/" for folder in split_folders.values() if folder != root]
    return assemble(
        options,
        name=printable(root.name) or "folder",
        class_names=tuple(printable(name) for name in classes),
        splits=splits,
        source=f"{root}: {', '.join(own) or 'a folder per class'}",
        remarks=skipped_files(ignored),
        skipped=skipped,
    )


class _Paths(PhotoFiles):
    """The photos of a folder. Their paths lie in one string of bytes: a million take some 40 MB."""

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)
        self._text, self._ends = bytearray(), array("q", [0])

    def add(self, path: str) -> None:
        """Append an image below the root."""
        self._text += os.fsencode(os.path.relpath(path, self._root))
        self._ends.append(len(self._text))

    def mixed(self, begin: int) -> np.ndarray:
        """The images from number `begin` on, in an order that depends only on their names: int64 numbers from 0."""
        digests = (blake2b(self.name(number).encode(), digest_size=8).digest() for number in range(begin, len(self)))
        keys = np.frombuffer(b"".join(digests), np.dtype(">u8"))
        return np.argsort(keys, kind="stable").astype(np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def name(self, number: int) -> str:
        """Its path below the root, with slashes."""
        return printable(self._relative(number).replace(os.sep, "/"))

    def place(self, number: int) -> str:
        """Its path, printable."""
        return printable(os.path.join(self._root, self._relative(number)))

    def path(self, number: int) -> Path:
        """Its path."""
        return Path(self._root, self._relative(number))

    def _relative(self, number: int) -> str:
        return os.fsdecode(bytes(self._text[self._ends[number] : self._ends[number + 1]]))


def _split_folders(root: Path) -> dict[str, Path]:
    """Maps each split to the folder that holds its class folders."""
    if not root.is_dir():
        raise FinetuneError(f"{root} is no folder: expected one with a folder of images per class")
    found: dict[str, Path] = {}
    for split, names in _SPLITS.items():
        there = [root / name for name in names if _folders(root / name)]
        if len(there) > 1:
            raise FinetuneError(
                f"{root} holds {' and '.join(f'{one.name}/' for one in there)}, which mean the same: keep one of them"
            )
        if there:
            found[split] = there[0]
    if "train" in found:
        return found
    if found:
        others = " and ".join(f"{one.name}/" for one in found.values())
        raise FinetuneError(
            f"{root} holds {others}, but no train/ with class folders: "
            "add train/, or give the folder that holds the class folders themselves"
        )
    own = _folders(root)
    if "train" in own and not set(own) - {name for names in _SPLITS.values() for name in names}:
        raise FinetuneError(
            f"{root / 'train'} holds no class folders: expected two or more, each named after its class and with its "
            "images in it"
        )
    return {"train": root}


def _folders(place: Path) -> list[str]:
    """The names of the visible folders in `place`, sorted; none if it is no folder."""
    if not place.is_dir():
        return []
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _check_classes(folder: Path, classes: list[str], train: Path) -> None:
    own = _folders(folder)
    more, less = sorted(set(own) - set(classes)), sorted(set(classes) - set(own))
    if more or less:
        parts = [f"{folder.name}/ has {_some(more)}, which {train.name}/ has not"] if more else []
        parts += [f"{folder.name}/ lacks {_some(less)} of {train.name}/"] if less else []
        raise FinetuneError(
            f"{folder.parent}: {'; '.join(parts)}: expected the same class folders in both; rename, add (an empty one "
            "will do) or remove them"
        )


def _some(names: list[str]) -> str:
    return ", ".join(printable(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def images_below(folder: Path, ignored: "Counter[str]", above: frozenset[str] = frozenset()) -> Iterator[str]:
    """The paths of the images in `folder` and all folders in it, sorted within each.

    Hidden files are skipped. Other files are counted in `ignored` by suffix. Links are followed, except those to one
    of the folders `above`, which contain `folder`.
    """
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that contains it
        return
    with os.scandir(folder) as scanned:
        entries = sorted((entry for entry in scanned if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.is_dir():
            yield from images_below(Path(entry.path), ignored, above | {real})
        elif suffix in decoding.SUFFIXES or (entry.is_file() and _begins_as_image(entry.path)):
            yield entry.path
        else:
            ignored[suffix or "without suffix"] += 1


def _begins_as_image(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
    return head.startswith(starts) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP") or head[4:12] == b"ftypavif"


def skipped_files(ignored: "Counter[str]") -> tuple[str, ...]:
    """A sentence on the files that `images_below` counted; none if there were none."""
    count = sum(ignored.values())
    what = "1 file that is no image" if count == 1 else f"{count} files that are no images"
    return (f"skipped {what}{_of_kinds(ignored)}",) if count else ()


def _of_kinds(ignored: "Counter[str]") -> str:
    by_count = sorted(ignored.items(), key=lambda pair: (-pair[1], pair[0]))
    kinds = ", ".join(f"{printable(suffix)} {count}" for suffix, count in by_count[:4])
    return f" ({kinds}{', ...' if len(ignored) > 4 else ''})" if ignored else ""


def _too_few(place: Path, classes: list[str]) -> str:
    """Why `place` does not hold two classes."""
    if (place / "batches.meta").is_file() or (place / "cifar-10-batches-py").is_dir():
        return f"{place} holds CIFAR's own files: give --data cifar10 --data-dir {place}"
    expected = "expected two or more folders of images, each named after its class"
    if not classes:
        loose = any(images_below(place, Counter()))
        return f"{place} holds {'images, but no class folders' if loose else 'no class folders'}: {expected}"
    inner = _folders(place / classes[0])
    hint = f"; or did you mean --data {place / classes[0]}?" if len(inner) > 1 else ""
    return f"{place} holds one class only, {printable(classes[0])}: {expected}{hint}"
