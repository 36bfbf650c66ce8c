"""Labels of images: one class each, int64 `[n]`, or several labels each, uint8 0/1 `[n, labels]`. Pure NumPy."""

from collections.abc import Iterable, Sequence

import numpy as np


def multi_hot(sets: Sequence[Iterable[str]], names: Sequence[str]) -> np.ndarray:
    """uint8 `[len(sets), len(names)]`: 1 where a set has the name."""
    place = {name: at for at, name in enumerate(names)}
    found = np.zeros((len(sets), len(names)), np.uint8)
    for row, one in zip(found, sets, strict=True):
        row[[place[name] for name in one]] = 1
    return found


def label_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """How many images each class or label has, int64 `[classes]`."""
    counts = labels.sum(axis=0, dtype=np.int64) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
    return np.asarray(counts)


def strata(labels: np.ndarray) -> np.ndarray:
    """One number for each image, int64 `[n]`, by which images are drawn in proportion: its class.

    Of several labels, the rarest of the image's own counts, the first of equals: frequent labels come in proportion by
    chance, rare ones do not. Images without any label have a number of their own.
    """
    if labels.ndim == 1:
        return labels
    rarity = np.where(labels == 1, labels.sum(axis=0, dtype=np.int64), len(labels) + 1)
    return np.asarray(np.where(labels.any(axis=1), rarity.argmin(axis=1), labels.shape[1]))
