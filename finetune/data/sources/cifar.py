"""CIFAR-10 as published (Krizhevsky 2009): the Python version, the binary version, and the archives of both."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.dataset import Dataset, Split
from finetune.data.sources.restricted_pickle import read_bytes, read_pickle
from finetune.errors import FinetuneError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_PIXELS = 3 * 32 * 32


def read_cifar10(data_dir: Path | None, progress: Callable[[int, int | None], None] | None = None) -> Dataset:
    """CIFAR-10: all training batches that are there, and the test batch; images uint8 `[n, 32, 32, 3]` RGB.

    `data_dir` holds `cifar-10-batches-py/`, `cifar-10-batches-bin/` or an archive of one, or is one of these (the
    first found is taken). Without it the cache's `data/` is such a folder, and filled by a download where it is
    empty. Archives are unpacked in the cache. Raises FinetuneError, and CheckpointError from the download.
    """
    place = _downloaded(progress) if data_dir is None else data_dir
    found = _locate(place)
    if found is None:
        raise FinetuneError(
            f"{place} holds no CIFAR-10: expected {' or '.join(_names())} in it{_there(place)}; look at --data-dir, or "
            "leave it out to have the data fetched"
        )
    folder, layout = found
    present = [name for name in layout.training if (folder / name).is_file()]
    if not present:
        raise FinetuneError(
            f"{folder} has no training batch: expected at least one of {', '.join(layout.training)}; "
            f"unpack {layout.archive} again"
        )
    if not (folder / layout.test).is_file():
        raise FinetuneError(
            f"{folder} has no {layout.test}: without test images there is no accuracy to report; "
            f"unpack {layout.archive} again"
        )
    some = f" ({len(present)} of {len(layout.training)})" if len(present) < len(layout.training) else ""
    return Dataset(
        name="cifar10",
        class_names=layout.class_names(folder),
        train=_joined([layout.read(folder / name) for name in present]),
        validation=None,
        test=_joined([layout.read(folder / layout.test)]),
        source=f"{folder}: {', '.join(present)}{some}, {layout.test}",
    )


@dataclass(frozen=True)
class _Layout:
    """One of the published versions. `read` gives pixels uint8 `[n, 3072]`, plane by plane, and labels int64 `[n]`."""

    folder: str
    archive: str
    training: tuple[str, ...]
    test: str
    read: Callable[[Path], tuple[np.ndarray, np.ndarray]]
    class_names: Callable[[Path], tuple[str, ...]]


def _read_pickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(read_bytes(path), str(path))
    pixels, labels = batch.get("data"), np.array(batch.get("labels", []))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        raise _damaged(path, f"its 'data' is {_described(pixels)}", f"uint8 [n, {_PIXELS}]")
    if labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1]:
        raise _damaged(path, f"its 'labels' are {_described(labels)}", f"{len(pixels)} whole numbers")
    return pixels, labels.astype(np.int64)


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = read_bytes(path)
    if not content or len(content) % (1 + _PIXELS):
        raise _damaged(path, f"it has {len(content)} bytes", f"a multiple of {1 + _PIXELS}, a label and its pixels")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _names_pickled(folder: Path) -> tuple[str, ...]:
    path = folder / "batches.meta"
    if not path.is_file():
        return CLASS_NAMES
    names = read_pickle(read_bytes(path), str(path)).get("label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes | str) for name in names):
        raise _damaged(path, "it has no 'label_names'", "a list of text")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names)


def _names_binary(folder: Path) -> tuple[str, ...]:
    path = folder / "batches.meta.txt"
    if not path.is_file():
        return CLASS_NAMES
    return tuple(read_bytes(path).decode("utf-8", "replace").split()) or CLASS_NAMES


_LAYOUTS = (
    _Layout(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        training=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        read=_read_pickled,
        class_names=_names_pickled,
    ),
    _Layout(
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        training=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        read=_read_binary,
        class_names=_names_binary,
    ),
)


def _locate(place: Path) -> tuple[Path, _Layout] | None:
    """The folder of batches that `place` is or holds; an archive is unpacked."""
    for layout in _LAYOUTS:
        if any((place / name).is_file() for name in (*layout.training, layout.test)):
            return place, layout
    for layout in _LAYOUTS:
        if (place / layout.folder).is_dir():
            return place / layout.folder, layout
    for layout in _LAYOUTS:
        path = place if place.name == layout.archive else place / layout.archive
        if path.is_file():
            from checkpoints import archive

            return archive.unpack(path) / layout.folder, layout
    return None


def _downloaded(progress: Callable[[int, int | None], None] | None) -> Path:
    """The cache's folder of data, with CIFAR-10 in it."""
    from checkpoints import store

    place = store.cache_dir() / "data"
    if _locate(place) is None:
        store.fetch(URL, md5=MD5, into=place, progress=progress, instead="use --data-dir PATH of a folder with it")
    return place


def _joined(batches: list[tuple[np.ndarray, np.ndarray]]) -> Split:
    labels = np.concatenate([labels for _, labels in batches])
    images = np.empty((len(labels), 32, 32, 3), np.uint8)
    start = 0
    for pixels, _ in batches:
        images[start : start + len(pixels)] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        start += len(pixels)
    return Split(images, labels)


def _names() -> list[str]:
    return [f"{layout.folder}/" for layout in _LAYOUTS] + [layout.archive for layout in _LAYOUTS]


def _there(place: Path) -> str:
    """What lies in `place` instead, for the message."""
    if not place.exists():
        return ", but it does not exist"
    if not place.is_dir():
        return ", but it is a file"
    names = sorted(path.name for path in place.iterdir())
    return f", found {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else ", but it is empty"


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _damaged(path: Path, found: str, expected: str) -> FinetuneError:
    return FinetuneError(f"{path} is no batch of CIFAR-10: {found}, expected {expected}; fetch or unpack it anew")
