"""Scores of predictions beyond their accuracy: confusion, per-class scores, thresholds, calibration. Pure NumPy."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

BINS = 15
"""Number of bins, as in Guo et al. 2017."""


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class; None where they divide by zero images.

    precision: of the images predicted as this class, the share that belong to it. recall: of the images of this class,
    the share predicted as it. f1: the harmonic mean of both. images: how many images the class has. predicted: how many
    images are predicted as it.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    images: int
    predicted: int


@dataclass(frozen=True)
class Bin:
    """Images with a confidence in (low, high]: their number, mean confidence and accuracy (None without images)."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """expected_error: mean over images of |accuracy - confidence| of their bin; largest_error: the largest of a bin."""

    expected_error: float
    largest_error: float
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for JSON files."""
        return asdict(self)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 `[classes, classes]`: images of a class (row) predicted as a class (column), without predictions of -1."""
    some = predicted >= 0
    counts = np.bincount(labels[some] * classes + predicted[some], minlength=classes * classes)
    return counts.reshape(classes, classes)


def per_class(labels: np.ndarray, predicted: np.ndarray, classes: int) -> list[ClassScore]:
    """The scores of every class, in their order. f1 = 2 hits / (images + predicted), which is 0 without hits."""
    return class_scores(class_counts(labels, predicted, classes))


def class_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> list[tuple[int, int, int]]:
    """Of every class: images of it that are predicted as it, images of it, images predicted as it. A prediction of -1
    is none."""
    hits = np.bincount(labels[labels == predicted], minlength=classes)
    images = np.bincount(labels, minlength=classes)
    taken = np.bincount(predicted[predicted >= 0], minlength=classes)
    return list(zip(hits.tolist(), images.tolist(), taken.tolist(), strict=True))


def class_scores(counts: Iterable[tuple[int, int, int]]) -> list[ClassScore]:
    """The scores of what `class_counts` counted."""
    return [
        ClassScore(
            precision=hit / guesses if guesses else None,
            recall=hit / n if n else None,
            f1=2 * hit / (n + guesses) if n + guesses else None,
            images=n,
            predicted=guesses,
        )
        for hit, n, guesses in counts
    ]


def macro_f1(scores: list[ClassScore]) -> float:
    """Mean F1 over the classes that have images."""
    return float(np.mean([score.f1 for score in scores if score.images]))


def balanced_accuracy(scores: list[ClassScore]) -> float:
    """Mean recall over the classes that have images (scikit-learn's `balanced_accuracy_score`)."""
    return float(np.mean([score.recall for score in scores if score.images]))


@dataclass(frozen=True)
class Threshold:
    """What decides whether an image is of one class: yes where the class's probability is at least `threshold`.

    f1: of these decisions, on the images that the threshold was chosen on. images: how many of them are of the class;
    without any, the other two are None.
    """

    threshold: float | None
    f1: float | None
    images: int


def thresholds(probabilities: np.ndarray, labels: np.ndarray) -> list[Threshold]:
    """For each class the threshold with the largest F1 of the class against all others, the highest of equals.

    probabilities: float `[n, classes]` in [0, 1]; labels: int `[n]`; n is 1 or more. A threshold lies halfway between
    the least probability that passes and the next lower one, or 0.
    """
    found = []
    for label in range(probabilities.shape[1]):
        order = np.argsort(-probabilities[:, label], kind="stable")
        own, hits = probabilities[order, label].astype(np.float64), np.cumsum(labels[order] == label)
        images = int(hits[-1])
        if not images:
            found.append(Threshold(None, None, 0))
            continue
        below = np.append(own[1:], 0.0)
        f1 = 2 * hits / (images + np.arange(1, len(own) + 1))
        f1[:-1][own[:-1] == below[:-1]] = -1.0  # equal probabilities pass together
        best = int(np.argmax(f1))
        found.append(Threshold(float((own[best] + below[best]) / 2), float(f1[best]), images))
    return found


def calibration(confidences: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> Calibration:
    """Expected calibration error (Guo et al. 2017, equation 5): `bins` equal bins of confidence, ((m-1)/M, m/M].

    confidences: float `[n]` in [0, 1], of the predicted classes; correct: bool `[n]`; n is 1 or more.
    """
    sure = confidences.astype(np.float64)
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    confidence, accuracy = (
        np.bincount(place, weights=of, minlength=bins) / np.maximum(counts, 1) for of in (sure, correct)
    )
    gaps = np.where(counts > 0, np.abs(accuracy - confidence), 0.0)
    return Calibration(
        expected_error=float(np.sum(gaps * counts) / len(sure)),
        largest_error=float(gaps.max()),
        bins=tuple(
            Bin(m / bins, (m + 1) / bins, int(n), float(mean) if n else None, float(share) if n else None)
            for m, (n, mean, share) in enumerate(zip(counts, confidence, accuracy, strict=True))
        ),
    )


def confused(table: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """At most `most` entries (true class, predicted class, images) off the diagonal, the most frequent first."""
    wrong = table - np.diag(np.diag(table))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [(int(place) // len(table), int(place) % len(table)) for place in order]
    return [(true, taken, int(wrong[true, taken])) for true, taken in pairs if wrong[true, taken]]
