"""CIFAR-10 at 16 px for the clinic of habits: classes 0 to 4 to pretrain on, classes 5 to 9 to transfer to."""

import pickle
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.clinic.patients import SHARED

TRAIN = 4_000
"""Training images of the task."""
POOL = 2_000
"""Test images of the task. A cell takes 50 to 1,000 of them; the truth is what all of them show."""


@dataclass(frozen=True)
class Images:
    """uint8 images `[n, 16, 16, 3]` and labels `[n]`, from 0."""

    x: np.ndarray
    y: np.ndarray

    def take(self, indices: np.ndarray) -> "Images":
        return Images(self.x[indices], self.y[indices])

    def sorted(self) -> "Images":
        """By class."""
        return self.take(np.argsort(self.y, kind="stable"))


@dataclass(frozen=True)
class Task:
    """What a model is trained on, and the pool its test sets are drawn from."""

    train: Images
    pool: Images


@cache
def task(first: int) -> Task:
    """The five classes of CIFAR-10 from `first` on, renumbered from 0."""
    train, pool = (_classes(_read(*names), first) for names in (("data_batch_1", "data_batch_2"), ("test_batch",)))
    rng = np.random.default_rng(0)
    return Task(train.take(rng.permutation(len(train.y))), pool.take(rng.permutation(len(pool.y))[:POOL]))


def _classes(images: Images, first: int) -> Images:
    own = images.take(np.flatnonzero((images.y >= first) & (images.y < first + 5)))
    return Images(own.x, own.y - first)


def _read(*names: str) -> Images:
    folder: Path = SHARED / "data" / "cifar-10-batches-py"
    files = [pickle.loads((folder / name).read_bytes(), encoding="bytes") for name in names]
    rows = np.concatenate([np.asarray(one[b"data"]) for one in files]).reshape(-1, 3, 16, 2, 16, 2)
    x = np.rint(rows.mean((3, 5))).astype(np.uint8).transpose(0, 2, 3, 1)
    return Images(x, np.concatenate([np.asarray(one[b"labels"], np.int64) for one in files]))


def drawn(pool: Images, count: int, seed: int) -> np.ndarray:
    """Positions of `count` images of the pool, stratified by class."""
    rng = np.random.default_rng(seed)
    classes = np.unique(pool.y)
    some = [rng.permutation(np.flatnonzero(pool.y == one))[: count // len(classes)] for one in classes]
    return rng.permutation(np.concatenate(some))
