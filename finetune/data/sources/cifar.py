"""CIFAR-10 and CIFAR-100 as published: the Python version, the binary version, and the archives of both."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.data.dataset import Dataset, Split
from finetune.data.sources.cifar_files import CIFAR10, CIFAR100, CIFAR100_COARSE, Layout
from finetune.errors import FinetuneError

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Published:
    """What is fetched where nothing is there: the archive of the Python version, with its published hash."""

    url: str
    md5: str


ARCHIVES = {
    "CIFAR-10": Published(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
    ),
    "CIFAR-100": Published(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"
    ),
}


def read_cifar10(data_dir: Path | None, progress: Progress | None = None) -> Dataset:
    """CIFAR-10: all training batches that are there, and the test batch; images uint8 `[n, 32, 32, 3]` RGB.

    `data_dir` holds `cifar-10-batches-py/`, `cifar-10-batches-bin/` or an archive of one, or is one of these (the
    first found is taken). Without it the cache's `data/` is such a folder, and filled by a download where it is
    empty. Archives are unpacked in the cache. Raises FinetuneError, and CheckpointError from the download.
    """
    return _read("cifar10", "CIFAR-10", CIFAR10, data_dir, progress)


def read_cifar100(data_dir: Path | None, progress: Progress | None = None) -> Dataset:
    """CIFAR-100 by its 100 fine labels; as `read_cifar10`, from `cifar-100-python/` or `cifar-100-binary/`."""
    return _read("cifar100", "CIFAR-100", CIFAR100, data_dir, progress)


def read_cifar100_coarse(data_dir: Path | None, progress: Progress | None = None) -> Dataset:
    """CIFAR-100 by its 20 superclasses."""
    return _read("cifar100-coarse", "CIFAR-100", CIFAR100_COARSE, data_dir, progress)


def _read(
    name: str, title: str, layouts: tuple[Layout, ...], data_dir: Path | None, progress: Progress | None
) -> Dataset:
    place = _downloaded(layouts, ARCHIVES[title], progress) if data_dir is None else data_dir
    found = _locate(place, layouts)
    if found is None:
        raise FinetuneError(
            f"{place} holds no {title}: expected {' or '.join(_names(layouts))} in it{_there(place)}; look at "
            "--data-dir, or leave it out to have the data fetched"
        )
    folder, layout = found
    present = [one for one in layout.training if (folder / one).is_file()]
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
        name=name,
        class_names=layout.class_names(folder),
        train=_joined([layout.read(folder / one) for one in present]),
        validation=None,
        test=_joined([layout.read(folder / layout.test)]),
        source=f"{folder}: {', '.join(present)}{some}, {layout.test}",
    )


def _locate(place: Path, layouts: tuple[Layout, ...]) -> tuple[Path, Layout] | None:
    """The folder of batches that `place` is or holds; an archive is unpacked."""
    for layout in layouts:
        if (place / layout.folder).is_dir():
            return place / layout.folder, layout
    for layout in layouts:
        if any((place / name).is_file() for name in (*layout.training, layout.test)):
            return place, layout
    for layout in layouts:
        path = place if place.name == layout.archive else place / layout.archive
        if path.is_file():
            from checkpoints.cache import archive

            return archive.unpack(path) / layout.folder, layout
    return None


def _downloaded(layouts: tuple[Layout, ...], archive: Published, progress: Progress | None) -> Path:
    """The cache's folder of data, with the data in it."""
    from checkpoints import store

    place = store.cache_dir() / "data"
    if _locate(place, layouts) is None:
        instead = "use --data-dir PATH of a folder with it"
        store.fetch(archive.url, md5=archive.md5, into=place, progress=progress, instead=instead)
    return place


def _joined(batches: list[tuple[np.ndarray, np.ndarray]]) -> Split:
    labels = np.concatenate([labels for _, labels in batches])
    images = np.empty((len(labels), 32, 32, 3), np.uint8)
    start = 0
    for pixels, _ in batches:
        images[start : start + len(pixels)] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        start += len(pixels)
    return Split(images, labels)


def _names(layouts: tuple[Layout, ...]) -> list[str]:
    return [f"{layout.folder}/" for layout in layouts] + [layout.archive for layout in layouts]


def _there(place: Path) -> str:
    """What lies in `place` instead, for the message."""
    if not place.exists():
        return ", but it does not exist"
    if not place.is_dir():
        return ", but it is a file"
    names = sorted(path.name for path in place.iterdir())
    return f", found {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else ", but it is empty"
