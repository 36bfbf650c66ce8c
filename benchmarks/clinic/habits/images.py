"""Small images for the clinic of habits: some to pretrain on, some of a task, in several worlds."""

import gzip
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.clinic.patients import SHARED

POOL = 2_000
"""Test images of a task. A cell takes 50 to 1,000 of them; the truth is what all of them show."""
ODD, EVEN = (1, 3, 5, 7, 9), (0, 2, 4, 6, 8)


@dataclass(frozen=True)
class Images:
    """uint8 images `[n, height, width, channels]` and labels `[n]`, from 0."""

    x: np.ndarray
    y: np.ndarray

    def take(self, indices: np.ndarray) -> "Images":
        return Images(self.x[indices], self.y[indices])

    def sorted(self) -> "Images":
        """By class."""
        return self.take(np.argsort(self.y, kind="stable"))

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> "Images":
        """With other pixels: `change` takes and gives float32 in [0, 255]."""
        return Images(np.clip(change(self.x.astype(np.float32)), 0, 255).astype(np.uint8), self.y)


@dataclass(frozen=True)
class Task:
    """What a model is trained on, and the pool its test sets are drawn from."""

    train: Images
    pool: Images

    @property
    def classes(self) -> int:
        return int(self.pool.y.max()) + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        return self.train.x.shape[1:]


@dataclass(frozen=True)
class World:
    """A task, and what its networks are pretrained on. train: images that a model is trained on, of those of the task.
    source: names the images to pretrain on, which worlds share."""

    name: str
    source: str
    pretraining: Callable[[], Task]
    task: Callable[[], Task]
    train: int


@cache
def task(chosen: Sequence[int]) -> Task:
    """These classes of CIFAR-10 at 16 px, renumbered from 0."""
    train, pool = (_classes(_read(*names), chosen) for names in (("data_batch_1", "data_batch_2"), ("test_batch",)))
    rng = np.random.default_rng(0)
    return Task(train.take(rng.permutation(len(train.y))), pool.take(rng.permutation(len(pool.y))[:POOL]))


def _classes(images: Images, chosen: Sequence[int]) -> Images:
    own = images.take(np.flatnonzero(np.isin(images.y, chosen)))
    return Images(own.x, np.searchsorted(chosen, own.y))


def _read(*names: str) -> Images:
    folder: Path = SHARED / "data" / "cifar-10-batches-py"
    files = [pickle.loads((folder / name).read_bytes(), encoding="bytes") for name in names]
    rows = np.concatenate([np.asarray(one[b"data"]) for one in files]).reshape(-1, 3, 16, 2, 16, 2)
    x = np.rint(rows.mean((3, 5))).astype(np.uint8).transpose(0, 2, 3, 1)
    return Images(x, np.concatenate([np.asarray(one[b"labels"], np.int64) for one in files]))


def grey() -> Task:
    """The odd classes of CIFAR-10 in grey, the middle 14 px."""
    return _both(task(ODD), lambda x: x[:, 1:15, 1:15].mean(-1, keepdims=True))


def night() -> Task:
    """The even classes of CIFAR-10, dark and with little contrast, as a camera at night gives them."""
    return _both(task(EVEN), lambda x: 5 + 0.3 * x)


def _both(known: Task, change: Callable[[np.ndarray], np.ndarray]) -> Task:
    return Task(known.train.changed(change), known.pool.changed(change))


@cache
def digits() -> Task:
    """The 10,000 test images of MNIST at 14 px, with one channel."""
    files = (SHARED / "data" / "mnist" / f"t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1"))
    pixels, labels = (np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8) for file in files)
    x = np.rint(pixels[16:].reshape(-1, 14, 2, 14, 2).mean((2, 4))).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(x))
    whole = Images(x, labels[8:].astype(np.int64))
    return Task(whole.take(order[POOL:]), whole.take(order[:POOL]))


FIRST = World("classes 5 to 9", "", lambda: task((0, 1, 2, 3, 4)), lambda: task((5, 6, 7, 8, 9)), 4_000)
"""The world of the recipes that corrected the rules."""
WORLDS = {
    one.name: one
    for one in (
        World("even", "odd", lambda: task(ODD), lambda: task(EVEN), 2_500),
        World("night", "odd", lambda: task(ODD), night, 2_500),
        World("digits", "grey", grey, digits, 2_500),
    )
}
"""The worlds of the held-out recipes."""


def drawn(pool: Images, count: int, seed: int) -> np.ndarray:
    """Positions of `count` images of the pool, stratified by class."""
    rng = np.random.default_rng(seed)
    classes = np.unique(pool.y)
    some = [rng.permutation(np.flatnonzero(pool.y == one))[: count // len(classes)] for one in classes]
    return rng.permutation(np.concatenate(some))
