"""Images in a NumPy `.npz`: `x_train`, `y_train`, `x_test`, `y_test`, as Keras publishes its small data sets."""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.dataset import Dataset, Split
from finetune.data.sources.assembly import ReadOptions, assemble
from finetune.errors import FinetuneError
from finetune.text import printable

_KEYS = {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}
_NAMES = "class_names"
_KNOWN = {_NAMES, *(name for pair in _KEYS.values() for name in pair)}
_EXPECTED = "x_train, y_train, and where there are any x_test, y_test, x_val, y_val and class_names"
_LOCAL_HEADER = 30
_AT_ONCE = 1024
_BOMB_BYTES, _MOST_EXPANSION = 256 << 20, 100
_DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error)
"""The exceptions that `zipfile` raises for a damaged archive."""


def read_arrays_file(path: Path, options: ReadOptions) -> Dataset:
    """The arrays of `path`: images `[n, height, width, 3]` (if grey, without the 3 or with 1) and labels `[n]`.

    uint8 images in an uncompressed file (`np.savez`) are mapped, not loaded. Floats in [0, 1] or [0, 255] and other
    whole numbers in [0, 255] are converted to uint8, which `remarks` report. Images that are not square are cut to
    their centre square. Nothing is unpickled. Raises FinetuneError for a damaged file, and for arrays that do not fit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            arrays = {name: _read(path, archive, name) for name in names if name in _KNOWN}
    except FileNotFoundError:
        raise FinetuneError(f"{path} is missing: check the path") from None
    except _DAMAGED as error:
        raise FinetuneError(f"{path} is no .npz, or damaged ({error}): write it again with np.savez") from None
    if not {"x_train", "y_train"} <= arrays.keys():
        there = ", ".join(printable(name) for name in names[:8]) or "nothing"
        raise FinetuneError(f"{path} holds {there}: expected {_EXPECTED}")
    splits, remarks = {}, []
    # Floats in [0, 1] are brought to [0, 255]; the factor is the same for all splits.
    pixels = arrays["x_train"]
    scale = 255.0 if pixels.dtype.kind == "f" and pixels.max(initial=0.0) <= 1.0 else 1.0
    for split, (x, y) in _KEYS.items():
        if (x in arrays) != (y in arrays):
            raise FinetuneError(f"{path} holds {x if x in arrays else y} without {y if x in arrays else x}: add it")
        if x in arrays:
            images = _rgb(path, x, arrays[x], scale)
            splits[split] = Split(_square(images), _labels(path, y, arrays[y], len(images)))
    shape = splits["train"].images.shape[1:]
    for split, one in splits.items():
        if one.images.shape[1:] != shape:
            found = f"{list(one.images.shape[1:])} in {_KEYS[split][0]}, {list(shape)} in x_train"
            raise FinetuneError(f"{path}: the images have {found}: expected one size; resize them")
    if pixels.dtype != np.uint8:
        remarks.append(f"{pixels.dtype} images are converted to uint8, times {scale:g}")
    height, width = pixels.shape[1:3]
    if height != width:
        remarks.append(f"the centre square of images of {width} x {height} px is taken")
    return assemble(
        options,
        splits,
        name=path.stem,
        class_names=_class_names(path, arrays.get(_NAMES), splits["train"].labels),
        source=f"{path}: {', '.join(_KEYS[split][0] for split in splits)}",
        remarks=tuple(remarks),
    )


def _read(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array; if it is stored without compression, a map of the file."""
    if f"{name}.npy" not in archive.namelist():
        raise FinetuneError(f"{path} holds {name}, which is no array: expected {name}.npy, as np.savez writes")
    info = archive.getinfo(f"{name}.npy")
    try:
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(member)
            start = member.tell()
        if dtype.hasobject:
            raise FinetuneError(
                f"{path}: {name} holds Python objects, which are never unpickled: write it as an array of numbers"
                f"{' or of fixed-length text' if name == _NAMES else ''}"
            )
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if info.file_size > _BOMB_BYTES and info.file_size > _MOST_EXPANSION * info.compress_size:
            raise ValueError(f"{info.compress_size} bytes that claim to unpack to {info.file_size}")
        if info.file_size != start + size:
            raise ValueError(f"it has {info.file_size - start} bytes of {size}")
        if info.compress_type == zipfile.ZIP_STORED and size:
            with path.open("rb") as file:
                file.seek(info.header_offset)
                local = file.read(_LOCAL_HEADER)
            offset = info.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", local[26:30])) + start
            return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
        with archive.open(info) as member:
            array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
            return array
    except (ValueError, tokenize.TokenError) as error:  # the latter for a header that is cut off
        raise FinetuneError(f"{path}: {name} is damaged ({error}): write it again with np.savez") from None


def _rgb(path: Path, name: str, images: np.ndarray, scale: float) -> np.ndarray:
    """uint8 `[n, height, width, 3]`; no copy if it is that already."""
    shape = images.shape
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        channels_first = len(shape) == 4 and shape[1] in (1, 3)
        hint = "; the channels come last: images.transpose(0, 2, 3, 1)" if channels_first else ""
        raise FinetuneError(
            f"{path}: {name} has the shape {list(shape)}: expected [n, height, width, 3], or grey without the 3{hint}"
        )
    if not len(images):
        raise FinetuneError(f"{path}: {name} holds no image: expected some, or leave it out")
    if images.dtype != np.uint8:
        images = _whole_bytes(path, name, images, scale)
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _whole_bytes(path: Path, name: str, images: np.ndarray, scale: float) -> np.ndarray:
    if images.dtype.kind not in "fiu":
        raise FinetuneError(f"{path}: {name} is of {images.dtype}: expected uint8, or floats in [0, 1] or [0, 255]")
    out = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _AT_ONCE):
        block = images[start : start + _AT_ONCE]
        least, most = float(block.min()) * scale, float(block.max()) * scale
        # Written so that NaN is rejected as well. Computed floats may exceed the range slightly.
        if not (least >= -0.01 and most <= 255.01):
            raise FinetuneError(
                f"{path}: {name} has pixels from {least / scale:g} to {most / scale:g}: expected [0, 1] or "
                "[0, 255], the same in all arrays; give pixels before any normalisation, which --preprocess does"
            )
        out[start : start + _AT_ONCE] = np.clip(np.rint(block * scale), 0, 255)
    return out


def _square(images: np.ndarray) -> np.ndarray:
    height, width = images.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, top : top + side, left : left + side]


def _labels(path: Path, name: str, labels: np.ndarray, images: int) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:  # as Keras gives CIFAR's
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        hint = "; of one-hot rows give labels.argmax(1)" if labels.ndim == 2 else ""
        raise FinetuneError(
            f"{path}: {name} is {labels.dtype} {list(labels.shape)}: expected {images} whole numbers, a class "
            f"each{hint}"
        )
    if len(labels) != images:
        raise FinetuneError(f"{path}: {name} has {len(labels)} labels for {images} images: expected one each")
    return np.array(labels, np.int64)


def _class_names(path: Path, names: Any, labels: np.ndarray) -> tuple[str, ...]:
    if names is None:
        return tuple(str(label) for label in range(int(labels.max()) + 1))
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise FinetuneError(f"{path}: {_NAMES} is {names.dtype} {list(names.shape)}: expected a list of text")
    return tuple(printable(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)) for name in names)
