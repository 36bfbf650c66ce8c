"""A folder of images per class. The images are read from disk when they are needed."""

import os
from array import array
from collections import Counter
from pathlib import Path

import numpy as np

from checkpoints.errors import listed
from finetune.data.dataset import Dataset
from finetune.data.image_files import PhotoFiles, images_below, of_kinds, skipped_files
from finetune.data.sources.assembly import LabelledPhotos, ReadOptions, assemble
from finetune.errors import FinetuneError
from finetune.text import printable

_SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}


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
    photos, labels, ignored = PhotoFiles(root), array("q"), Counter[str]()
    members = {}
    for split, folder in split_folders.items():
        begin = len(labels)
        for label, name in enumerate(classes):
            for path in images_below(folder / name, ignored):
                photos.add(path)
                labels.append(label)
        members[split] = photos.mixed(begin)
        if begin == len(labels):
            raise FinetuneError(f"the class folders in {folder} hold no images{of_kinds(ignored)}: check the folder")
    own = [f"{folder.name}/" for folder in split_folders.values() if folder != root]
    return assemble(
        options,
        LabelledPhotos(photos, np.array(labels, np.int64), members),
        name=printable(root.name) or "folder",
        class_names=tuple(printable(name) for name in classes),
        source=f"{root}: {', '.join(own) or 'a folder per class'}",
        remarks=skipped_files(ignored),
    )


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
    own, expected = set(_folders(folder)), set(classes)
    more, less = sorted(own - expected), sorted(expected - own)
    if more or less:
        parts = [f"{folder.name}/ has {printable(listed(more, most=5))}, which {train.name}/ has not"] if more else []
        parts += [f"{folder.name}/ lacks {printable(listed(less, most=5))} of {train.name}/"] if less else []
        raise FinetuneError(
            f"{folder.parent}: {'; '.join(parts)}: expected the same class folders in both; rename, add (an empty one "
            "will do) or remove them"
        )


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
