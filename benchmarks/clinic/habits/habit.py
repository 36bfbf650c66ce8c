"""What a habit is: a recipe as somebody writes it, the model it leaves, and the cause that is right for it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.clinic.habits.images import FIRST, POOL, Images, Task, World, drawn

OF_REMEDY = {
    "recalibrate": (
        "not-finite", "statistics-not-saved", "updates-never-ran", "partially-restored",
        "frozen-base-normalised-by-batch", "updates-never-ran-since-source", "frozen-statistics-trained-weights",
        "statistics-lag", "averaged-weights-raw-statistics", "statistics-noisy",
    ),
    "pixels": ("wrong-preprocessing",),
    "labels": ("not-batchnorm: labels",),
    "other images": ("different-data",),
    "train again": ("batch-composition", "trained-in-inference-mode"),
    "none": ("healthy", "inference-mode-by-design", "not-batchnorm: undertrained", "not-batchnorm: overfitting"),
}  # fmt: skip
"""Class of remedy -> its causes."""
CLASS = {cause: remedy for remedy, causes in OF_REMEDY.items() for cause in causes}


@dataclass
class Bench:
    """Where one model is made: an empty folder, the network's name, its pretrained weights, its images."""

    folder: Path
    network: str
    weights: Mapping[str, np.ndarray]
    seed: int = 0
    world: World = FIRST
    images: Task = field(init=False)

    def __post_init__(self) -> None:
        whole = self.world.task()
        chosen = np.random.default_rng([self.seed, 1]).permutation(len(whole.train.y))[: self.world.train]
        self.images = Task(whole.train.take(chosen), whole.pool)

    @property
    def thousand(self) -> np.ndarray:
        """The 1,000 test images of this model, of the pool."""
        return drawn(self.images.pool, 1000, self.seed)


@dataclass(frozen=True)
class Brought:
    """What somebody brings to `finetune diagnose-bn`, and what is right for it.

    right: the causes that are right, the exact one first; the others follow where no figure tells them apart. words:
    the command's words but for the data. own: the accuracy with `is_training=False` on the 1,000 test images, by the
    program that trained the model and on the pixels of the training; comparable: whether the diagnosis sees the same.
    train, pool: the images, where these are not those of the training.
    """

    name: str
    right: tuple[str, ...]
    words: tuple[str, ...]
    own: float | None = None
    comparable: bool = True
    train: Images | None = None
    pool: Images | None = None


@dataclass(frozen=True)
class Habit:
    """A training by a recipe. It leaves one model or several, which differ in what was done afterwards."""

    name: str
    dialect: str
    bring: Callable[[Bench], Iterator[Brought]]


HEALTHY = ("healthy", "inference-mode-by-design", "not-batchnorm: undertrained", "not-batchnorm: overfitting")
__all__ = ["CLASS", "HEALTHY", "POOL", "Bench", "Brought", "Habit"]
