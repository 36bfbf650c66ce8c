"""MNIST (LeCun 1998) and Fashion-MNIST (Xiao 2017): the idx files as published, or the `.npz` that Keras publishes."""

import gzip
import math
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from checkpoints import store
from checkpoints.download.resumable import fetch
from finetune.data.dataset import Dataset, Split
from finetune.data.sources.arrays import read_arrays_file
from finetune.data.sources.assembly import Progress, ReadOptions
from finetune.errors import FinetuneError

_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
_ORIGIN = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist",
    "fashion_mnist": "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
}
_MD5 = {
    "mnist": (
        *("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
        *("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    "fashion_mnist": (
        *("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
        *("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
}
"""The published MD5 hashes of the four files, compressed, in the order of FILES."""

IDX = tuple(_NAMES)
"""The data sets of this module. Both have ten classes and grey images of 28 px."""
FILES = tuple(f"{split}-{kind}" for split in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
"""The files of either data set, each also as `.gz`, or with a dot for the dash before `idx`, as some unpack them."""
_FOLDERS = {
    "mnist": ("", "mnist", "MNIST", "MNIST/raw", "raw"),
    "fashion_mnist": ("", "fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "fashion", "raw"),
}
_LARGEST = 1 << 28
"""The most bytes of one file, unpacked. MNIST's training images have 47 million."""


def read_idx(name: str, data_dir: Path | None, progress: Progress | None = None) -> Dataset:
    """A data set of `IDX`: grey, uint8 `[n, 28, 28, 1]`.

    `data_dir` is the folder of the idx files or of NAME.npz, or holds one of these, or is that `.npz`. Without
    `data_dir`, the files are in the cache, or are downloaded to it. Raises FinetuneError for files that are missing,
    damaged or of another data set, and CheckpointError from the download.
    """
    place = _downloaded(name, progress) if data_dir is None else data_dir
    if place.suffix.lower() == ".npz" and place.is_file():
        return _from_arrays(name, place)
    for folder in (place / one for one in _FOLDERS[name]):
        found = {one: path for one in FILES if (path := _located(folder, one))}
        if found:
            return _read_all(name, folder, found)
        for one in {f"{name}.npz", f"{name.replace('_', '-')}.npz"}:
            if (folder / one).is_file():
                return _from_arrays(name, folder / one)
    raise FinetuneError(
        f"{place} holds no files of {name}: expected {', '.join(FILES)}, with or without .gz, or {name}.npz; they are "
        f"published at {_ORIGIN[name]}; check --data-dir, or leave it out to download the data"
    )


def idx_at(place: Path) -> str | None:
    """The data set whose four files the folder `place` holds, which are of the same names; None if they are not there.

    Fashion-MNIST is known by the folder's name alone.
    """
    if not place.is_dir() or not all(_located(place, one) for one in FILES):
        return None
    return "fashion_mnist" if "fashion" in str(place).lower() else "mnist"


def _read_all(name: str, folder: Path, found: dict[str, Path]) -> Dataset:
    missing = [one for one in FILES if one not in found]
    if missing:
        raise FinetuneError(
            f"{folder} has {', '.join(path.name for path in found.values())}, but no {' and no '.join(missing)}: "
            f"expected all four files, with or without .gz; fetch the others from {_ORIGIN[name]}"
        )
    splits: list[Split] = []
    for images, labels in (FILES[:2], FILES[2:]):
        pixels, classes = _read(found[images], 3), _read(found[labels], 1)
        if len(pixels) != len(classes):
            raise FinetuneError(
                f"{found[labels]} has {len(classes)} labels for the {len(pixels)} images of {found[images].name}: "
                "expected one each; the two are of different data sets, or one is damaged: fetch both again"
            )
        if splits and splits[0].images.shape[1:3] != pixels.shape[1:]:
            raise FinetuneError(
                f"{found[images]} has images of {pixels.shape[1]} x {pixels.shape[2]} px, {found[FILES[0]].name} has "
                "not: expected one size; they are of different data sets: fetch both again"
            )
        splits.append(Split(pixels[..., np.newaxis], classes.astype(np.int64)))
    source = f"{folder}: {', '.join(path.name for path in found.values())}"
    return Dataset(name, _NAMES[name], splits[0], None, splits[1], source)


def _from_arrays(name: str, path: Path) -> Dataset:
    return replace(read_arrays_file(path, ReadOptions()), name=name, class_names=_NAMES[name])


def _located(folder: Path, name: str) -> Path | None:
    spellings = (name, name.replace("-idx", ".idx"))
    return next(
        (folder / f"{one}{end}" for one in spellings for end in ("", ".gz") if (folder / f"{one}{end}").is_file()), None
    )


def _downloaded(name: str, progress: Progress | None) -> Path:
    place = store.cache_dir() / "data" / name
    for file, md5 in zip(FILES, _MD5[name], strict=True):
        url, instead = f"{_ORIGIN[name]}/{file}.gz", "use --data-dir PATH of a folder with the four idx files"
        fetch(url, md5=md5, into=place, progress=progress, instead=instead)
    return place


def _read(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of an idx file of so many dimensions, uint8. Raises FinetuneError for any other file.

    The header is big-endian: two zeros, the type (8: bytes), the number of dimensions, and each dimension in 4 bytes.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FinetuneError(f"{path} cannot be read ({error}): it is damaged; fetch it again") from None
    start = 4 + 4 * dimensions
    shape = tuple(int(one) for one in np.frombuffer(content[4:start], ">u4")) if len(content) >= start else ()
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) != start + math.prod(shape) or not all(shape):
        found = f"begins with {content[:4].hex() or 'nothing'} and has {len(content)} bytes"
        raise FinetuneError(
            f"{path} is no idx file of bytes in {dimensions} dimension{'s' if dimensions > 1 else ''}, or it is cut "
            f"off: it {found}, expected 000008{dimensions:02} and {start + math.prod(shape)}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
