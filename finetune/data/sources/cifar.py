"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as published: the Python version, the binary version, and both archives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import store
from checkpoints.cache import archive
from checkpoints.download.resumable import fetch
from finetune.data.dataset import Dataset, Split
from finetune.data.sources.assembly import Progress
from finetune.data.sources.restricted_pickle import read_bytes, read_pickle
from finetune.errors import FinetuneError

_PIXELS = 3 * 32 * 32
_TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


MD5 = {"CIFAR-10": "c58f30108f718f92721af3b95e74349a", "CIFAR-100": "eb9058c3a382ffc7106e4002c42a8d85"}
"""The published MD5 hashes of the archives of the Python versions, which are downloaded if there are no files."""


_FILES = {
    "cifar-10": (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"),
    "cifar-100": ("train", "test"),
}
"""The training batches and, last, the test batch; in the binary version with `.bin`."""


@dataclass(frozen=True)
class Layout:
    """The files of one published version, `python` or `binary`.

    labels: where a batch has them: a key of the pickled dict; or how many bytes before the pixels of a record are
    labels, and which of these is the class. names: the file of the class names, with its key if it is a pickle.
    known: the names if there is no such file.
    """

    data: str
    version: str
    folder: str
    labels: str | tuple[int, int]
    names: tuple[str, str | None]
    known: tuple[str, ...] = ()

    @property
    def archive(self) -> str:
        """The name of the archive."""
        return f"{self.data}-{self.version}.tar.gz"

    @property
    def files(self) -> list[str]:
        """The names of the training batches and, last, of the test batch."""
        return [f"{one}.bin" if self.version == "binary" else one for one in _FILES[self.data]]

    def read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of a batch, uint8 `[n, 3072]` channel by channel, and its labels, int64 `[n]`."""
        return _pickled(path, self.labels) if isinstance(self.labels, str) else _binary(path, *self.labels)


def read_cifar(name: str, data_dir: Path | None, progress: Progress | None = None) -> Dataset:
    """A data set of `CIFAR`: all training batches that are present, and the test batch; uint8 `[n, 32, 32, 3]` RGB.

    `data_dir` is the folder of one published version or its archive, or holds one of these; the first found is read.
    Without `data_dir`, the `data/` folder of the cache is read. The archive is downloaded to it if it has no such
    files. Archives are unpacked in the cache. Raises FinetuneError, and CheckpointError from the download.
    """
    layouts = CIFAR[name]
    title = layouts[0].data.upper()
    place = _downloaded(layouts, MD5[title], progress) if data_dir is None else data_dir
    if (found := _locate(place, layouts)) is None:
        expected = [f"{layout.folder}/" for layout in layouts] + [layout.archive for layout in layouts]
        raise FinetuneError(
            f"{place} holds no {title}: expected {' or '.join(expected)} in it{_content(place)}; check --data-dir, or "
            "leave it out to download the data"
        )
    folder, layout = found
    *training, test = layout.files
    present = [one for one in training if (folder / one).is_file()]
    if not present:
        raise FinetuneError(
            f"{folder} has no training batch: expected at least one of {', '.join(training)}; "
            f"unpack {layout.archive} again"
        )
    if not (folder / test).is_file():
        raise FinetuneError(
            f"{folder} has no {test}: without test images there is no accuracy to report; unpack {layout.archive} again"
        )
    some = f" ({len(present)} of {len(training)})" if len(present) < len(training) else ""
    return Dataset(
        name=name,
        class_names=_names(folder, layout),
        train=_joined([layout.read(folder / one) for one in present]),
        validation=None,
        test=_joined([layout.read(folder / test)]),
        source=f"{folder}: {', '.join(present)}{some}, {test}",
    )


def cifar_at(place: Path) -> str | None:
    """The data set whose published files the folder `place` holds, or whose archive it is; None if there is none."""
    found = (name for name, layouts in CIFAR.items() if any(_is_there(place, one) for one in layouts))
    return next(found, None)


def _is_there(place: Path, layout: Layout) -> bool:
    alone = place.is_dir() and [one.name for one in place.iterdir() if one.is_dir()] == [layout.folder]
    # CIFAR-100's batches are called train and test, which other files may be as well.
    folders = (one for one in (place, *([place / layout.folder] if alone else [])) if (one / layout.names[0]).is_file())
    return place.name == layout.archive or any((one / name).is_file() for one in folders for name in layout.files)


def _locate(place: Path, layouts: tuple[Layout, ...]) -> tuple[Path, Layout] | None:
    """The folder of batches that `place` is or holds; an archive is unpacked."""
    for layout in layouts:
        if (place / layout.folder).is_dir():
            return place / layout.folder, layout
    for layout in layouts:
        if any((place / name).is_file() for name in layout.files):
            return place, layout
    for layout in layouts:
        path = place if place.name == layout.archive else place / layout.archive
        if path.is_file():
            return archive.unpack(path) / layout.folder, layout
    return None


def _downloaded(layouts: tuple[Layout, ...], md5: str, progress: Progress | None) -> Path:
    """The `data/` folder of the cache, after a download if it did not hold the data."""
    place = store.cache_dir() / "data"
    if _locate(place, layouts) is None:
        instead = "use --data-dir PATH of a folder with it"
        url = f"https://www.cs.toronto.edu/~kriz/{layouts[0].archive}"
        fetch(url, md5=md5, into=place, progress=progress, instead=instead)
    return place


def _joined(batches: list[tuple[np.ndarray, np.ndarray]]) -> Split:
    labels = np.concatenate([labels for _, labels in batches])
    images = np.empty((len(labels), 32, 32, 3), np.uint8)
    np.concatenate([pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for pixels, _ in batches], out=images)
    return Split(images, labels)


def _content(place: Path) -> str:
    """The content of `place`, for the message that it is not the expected one."""
    if not place.exists():
        return ", but it does not exist"
    if not place.is_dir():
        return ", but it is a file"
    names = sorted(path.name for path in place.iterdir())
    return f", found {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else ", but it is empty"


def _pickled(path: Path, labels_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a pickled dict with the pixels under 'data' and the labels under `labels_key`."""
    batch = read_pickle(read_bytes(path), str(path))
    pixels, labels = batch.get("data"), batch.get(labels_key, [])
    # A list of lists may contain itself many times over: as an array it would not fit into any memory.
    if isinstance(labels, list) and all(isinstance(label, int | float) for label in labels):
        labels = np.array(labels)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        raise _damaged(path, f"its 'data' is {_described(pixels)}", f"uint8 [n, {_PIXELS}]")
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.shape != pixels.shape[:1]:
        raise _damaged(path, f"its '{labels_key}' are {_described(labels)}", f"{len(pixels)} whole numbers")
    return pixels, labels.astype(np.int64)


def _binary(path: Path, labels: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads records of `labels` bytes and the pixels; the label is the byte at `column`."""
    content, record = read_bytes(path), labels + _PIXELS
    if not content or len(content) % record:
        what = "a label and its pixels" if labels == 1 else f"{labels} labels and their pixels"
        raise _damaged(path, f"it has {len(content)} bytes", f"a multiple of {record}, {what}")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, labels:], records[:, column].astype(np.int64)


def _names(folder: Path, layout: Layout) -> tuple[str, ...]:
    """The class names: the list under a key of a pickle, or the lines of a text file."""
    path, key = folder / layout.names[0], layout.names[1]
    if layout.known and not path.is_file():
        return layout.known
    content = read_bytes(path)
    found = read_pickle(content, str(path)).get(key) if key else content.decode("utf-8", "replace").split()
    if not key and not found and layout.known:
        return layout.known
    if not isinstance(found, list) or not found or not all(isinstance(name, bytes | str) for name in found):
        raise _damaged(path, f"it has no '{key}'" if key else "it is empty", "a list of names")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in found)


def _cifar100(labels: str) -> tuple[Layout, Layout]:
    """`labels`: fine (100 classes) or coarse (20 superclasses). In the binary version the coarse label comes first."""
    names, column = f"{labels}_label_names", ("coarse", "fine").index(labels)
    return (
        Layout("cifar-100", "python", "cifar-100-python", f"{labels}_labels", ("meta", names)),
        Layout("cifar-100", "binary", "cifar-100-binary", (2, column), (f"{names}.txt", None)),
    )


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _damaged(path: Path, found: str, expected: str) -> FinetuneError:
    return FinetuneError(f"{path} is no file of CIFAR: {found}, expected {expected}; download or unpack it again")


CIFAR = {
    "cifar10": (
        Layout("cifar-10", "python", "cifar-10-batches-py", "labels", ("batches.meta", "label_names"), _TEN),
        Layout("cifar-10", "binary", "cifar-10-batches-bin", (1, 0), ("batches.meta.txt", None), _TEN),
    ),
    "cifar100": _cifar100("fine"),
    "cifar100-coarse": _cifar100("coarse"),
}
"""Data set -> the versions it is published in. `cifar100-coarse` has the 20 superclasses of CIFAR-100."""
