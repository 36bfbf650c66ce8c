"""How well another numbering of the classes explains the predictions. Pure NumPy."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from finetune.diagnosis.evidence import LabelCheck
from finetune.evaluation.metrics import confusion
from finetune.evaluation.predictions import Predictions

_LEAST = 1e-7
"""The least probability that float32 tells from 0, about."""
Scored = tuple[np.ndarray, np.ndarray]
"""(labels, predictions), int64 `[n]`; a prediction of -1 is missing."""


def explain(test: Sequence[Scored], train: Sequence[Scored], classes: int, *, loss: float = 0.0) -> LabelCheck:
    """`test` and `train` hold the same images in each of the three modes; the mode that fits best counts. `loss` is
    that of `least_loss`.

    Wrong statistics cause systematic errors, which a renumbering explains in part. So a renumbering in any mode is
    compared with the given numbering in the best mode.
    """
    offset, offset_accuracy = max((_offset(one, classes) for one in test), key=lambda found: found[1])
    permuted, renumbered = max((_permuted(one, classes) for one in test), key=lambda found: found[0])
    return LabelCheck(
        accuracy=max(_accuracy(one) for one in test),
        offset=offset,
        offset_accuracy=offset_accuracy,
        permuted_accuracy=permuted,
        renumbered=renumbered,
        train_accuracy=max(_accuracy(one) for one in train),
        train_permuted_accuracy=max(_permuted(one, classes)[0] for one in train),
        loss=loss,
    )


def least_loss(scored: Sequence[Predictions], classes: int) -> float:
    """The least mean cross-entropy of any of these, with their numbering or the best other one; nats per image.

    Classes beyond the five most probable share what these leave over.
    """
    return min(_loss(one, own, classes) for one in scored for own in _numberings(one, classes))


def _numberings(scored: Predictions, classes: int) -> tuple[np.ndarray, np.ndarray]:
    return scored.labels, _renumbering(scored.labels, scored.classes, classes)[scored.labels]


def _loss(scored: Predictions, labels: np.ndarray, classes: int) -> float:
    listed = scored.top_classes == labels[:, None]
    beyond = (1 - scored.top_probabilities.sum(axis=1)) / max(classes - scored.top_classes.shape[1], 1)
    own = np.where(listed.any(axis=1), (scored.top_probabilities * listed).sum(axis=1), beyond)
    return float(-np.log(np.maximum(own, _LEAST)).mean())


def _accuracy(scored: Scored) -> float:
    """The share of predictions that are the label, in [0, 1]."""
    return float(np.mean(scored[0] == scored[1]))


def _offset(scored: Scored, classes: int) -> tuple[int, float]:
    """(the offset other than 0 that explains most, the accuracy with it); modulo the classes, nearest to 0."""
    labels, predictions = scored
    counts = np.bincount((predictions - labels)[predictions >= 0] % classes, minlength=classes)
    if classes < 2:
        return 0, 0.0
    best = int(np.argmax(counts[1:])) + 1
    return best if best <= classes // 2 else best - classes, float(counts[best] / len(labels))


def _permuted(scored: Scored, classes: int) -> tuple[float, int]:
    """Accuracy under the best renumbering, cross-validated over two halves, and how many classes it moves."""
    labels, predictions = scored
    halves = np.arange(len(labels)) // max(classes, 1) % 2
    correct = 0
    for half in (0, 1):
        fitted = _renumbering(labels[halves != half], predictions[halves != half], classes)
        correct += int(np.sum(fitted[labels[halves == half]] == predictions[halves == half]))
    seen = np.unique(labels)
    moved = _renumbering(labels, predictions, classes)[seen] != seen
    return correct / len(labels), int(np.sum(moved))


def _renumbering(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Class -> its best prediction, one to one; the identity where nothing is gained."""
    # Half an image in favour of the identity, so that ties and classes without images keep their number.
    gained = confusion(labels, predictions, classes) + np.eye(classes) / 2
    return np.asarray(linear_sum_assignment(gained, maximize=True)[1])
