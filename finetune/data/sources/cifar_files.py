"""The files CIFAR-10 and CIFAR-100 are published in (Krizhevsky 2009): pixels, labels and names of each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.sources.restricted_pickle import read_bytes, read_pickle
from finetune.errors import FinetuneError

_PIXELS = 3 * 32 * 32
_TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Layout:
    """One of the published versions. `read` gives pixels uint8 `[n, 3072]`, plane by plane, and labels int64 `[n]`."""

    folder: str
    archive: str
    training: tuple[str, ...]
    test: str
    read: Callable[[Path], tuple[np.ndarray, np.ndarray]]
    class_names: Callable[[Path], tuple[str, ...]]


def _pickled(labels_key: str) -> Callable[[Path], tuple[np.ndarray, np.ndarray]]:
    def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        batch = read_pickle(read_bytes(path), str(path))
        # A list of lists can hold itself many times over: what it is as an array no memory holds.
        pixels, labels = batch.get("data"), batch.get(labels_key, [])
        if isinstance(labels, list) and all(isinstance(label, int | float) for label in labels):
            labels = np.array(labels)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
            raise _damaged(path, f"its 'data' is {_described(pixels)}", f"uint8 [n, {_PIXELS}]")
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1]:
            raise _damaged(path, f"its '{labels_key}' are {_described(labels)}", f"{len(pixels)} whole numbers")
        return pixels, labels.astype(np.int64)

    return read


def _binary(labels: int, column: int) -> Callable[[Path], tuple[np.ndarray, np.ndarray]]:
    """Records of `labels` bytes and the pixels; the label is the byte at `column`."""

    def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        content, record = read_bytes(path), labels + _PIXELS
        if not content or len(content) % record:
            what = "a label and its pixels" if labels == 1 else f"{labels} labels and their pixels"
            raise _damaged(path, f"it has {len(content)} bytes", f"a multiple of {record}, {what}")
        records = np.frombuffer(content, np.uint8).reshape(-1, record)
        return records[:, labels:], records[:, column].astype(np.int64)

    return read


def _names_pickled(file: str, key: str, otherwise: tuple[str, ...] | None) -> Callable[[Path], tuple[str, ...]]:
    def names(folder: Path) -> tuple[str, ...]:
        path = folder / file
        if not path.is_file() and otherwise:
            return otherwise
        found = read_pickle(read_bytes(path), str(path)).get(key)
        if not isinstance(found, list) or not found or not all(isinstance(name, bytes | str) for name in found):
            raise _damaged(path, f"it has no '{key}'", "a list of text")
        return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in found)

    return names


def _names_text(file: str, otherwise: tuple[str, ...] | None) -> Callable[[Path], tuple[str, ...]]:
    def names(folder: Path) -> tuple[str, ...]:
        path = folder / file
        if not path.is_file() and otherwise:
            return otherwise
        found = tuple(read_bytes(path).decode("utf-8", "replace").split()) or otherwise
        if not found:
            raise _damaged(path, "it is empty", "a name a line")
        return found

    return names


CIFAR10 = (
    Layout(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        training=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        read=_pickled("labels"),
        class_names=_names_pickled("batches.meta", "label_names", _TEN),
    ),
    Layout(
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        training=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        read=_binary(1, 0),
        class_names=_names_text("batches.meta.txt", _TEN),
    ),
)


def _cifar100(labels: str) -> tuple[Layout, Layout]:
    """`labels`: fine, 100 classes, or coarse, the 20 superclasses. In the binary version the coarse one comes first."""
    return (
        Layout(
            folder="cifar-100-python",
            archive="cifar-100-python.tar.gz",
            training=("train",),
            test="test",
            read=_pickled(f"{labels}_labels"),
            class_names=_names_pickled("meta", f"{labels}_label_names", None),
        ),
        Layout(
            folder="cifar-100-binary",
            archive="cifar-100-binary.tar.gz",
            training=("train.bin",),
            test="test.bin",
            read=_binary(2, ("coarse", "fine").index(labels)),
            class_names=_names_text(f"{labels}_label_names.txt", None),
        ),
    )


CIFAR100, CIFAR100_COARSE = _cifar100("fine"), _cifar100("coarse")


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _damaged(path: Path, found: str, expected: str) -> FinetuneError:
    return FinetuneError(f"{path} is no file of CIFAR: {found}, expected {expected}; fetch or unpack it anew")
