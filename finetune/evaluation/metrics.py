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
    """Mean F1 over the classes that have images; 0 where none has."""
    return float(np.mean([score.f1 for score in scores if score.images] or [0.0]))


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

    probabilities: float `[n, classes]` in [0, 1]; labels: int `[n]`, or 0/1 `[n, classes]`; n is 1 or more. A
    threshold lies halfway between the least probability that passes and the next lower one, or 0.
    """
    found = []
    for label in range(probabilities.shape[1]):
        order = np.argsort(-probabilities[:, label], kind="stable")
        positive = labels[:, label] == 1 if labels.ndim == 2 else labels == label
        own, hits = probabilities[order, label].astype(np.float64), np.cumsum(positive[order])
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


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the precision-recall curve as a sum of rectangles, sum_n (R_n - R_{n-1}) P_n, over the distinct
    scores, the highest first (scikit-learn's `average_precision_score`); None without positive images.

    scores: float `[n]`, larger is more likely; positive: 0/1 `[n]`.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(positive[order], dtype=np.int64)
    if not len(hits) or not hits[-1]:
        return None
    last = np.append(ordered[1:] != ordered[:-1], True)  # equal scores are reached together
    found = hits[last]
    precision = found / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(found, prepend=0) * precision) / hits[-1])


def average_precisions(scores: np.ndarray, labels: np.ndarray) -> tuple[float | None, ...]:
    """`average_precision` of each label: scores float `[n, labels]`, labels 0/1 `[n, labels]`."""
    return tuple(map(average_precision, scores.T, labels.T))


def mean_average_precision(each: Iterable[float | None]) -> float | None:
    """The mean over the labels that have positive images; None where none has."""
    known = [one for one in each if one is not None]
    return float(np.mean(known)) if known else None


def r_precision(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The accuracy of each image that may have several labels, float64 `[n]`: the share of its r labels that are among
    the r highest logits (R-precision; Manning et al. 2008, Introduction to Information Retrieval, section 8.4).

    Of one label it is top-1 accuracy. No threshold is in it: a model that gives rare labels low probabilities is not
    wrong for that. An image without labels is right, 1, if no logit is above 0, else 0. Of equal logits the
    lower label comes first, as in argmax.

    logits: float `[n, labels]`, finite; labels: 0/1 `[n, labels]`.
    """
    count = labels.sum(axis=1, dtype=np.int64)
    ranked = np.take_along_axis(labels, np.argsort(-logits, axis=1, kind="stable"), axis=1)
    hits = (ranked * (np.arange(labels.shape[1]) < count[:, None])).sum(axis=1)
    return np.where(count > 0, hits / np.maximum(count, 1), ~(logits > 0).any(axis=1))


def label_counts(decided: np.ndarray, labels: np.ndarray) -> list[tuple[int, int, int]]:
    """`class_counts` of several labels an image: bool `[n, labels]` and 0/1 `[n, labels]`."""
    true = labels.astype(bool)
    columns = ((decided & true).sum(axis=0), true.sum(axis=0), decided.sum(axis=0))
    return list(zip(*(one.tolist() for one in columns), strict=True))


def micro_f1(counts: Iterable[tuple[int, int, int]]) -> float:
    """F1 of all decisions about all labels together; 0 where there is neither a label nor a prediction."""
    hits, images, taken = np.sum(list(counts), axis=0)
    return float(2 * hits / (images + taken)) if images + taken else 0.0


def decided(probabilities: np.ndarray, limits: Iterable[float | None]) -> np.ndarray:
    """bool `[n, labels]`: which labels reach their threshold; one without a threshold takes 0.5."""
    return np.asarray(probabilities >= np.array([0.5 if one is None else one for one in limits]))


def scores_at(probabilities: np.ndarray, labels: np.ndarray, limits: Iterable[float | None]) -> dict[str, float]:
    """F1, exact matches and the share of right labels where `decided` by the thresholds `limits`."""
    yes = decided(probabilities, limits)
    counts, right = label_counts(yes, labels), yes == labels.astype(bool)
    return {
        "micro_f1": micro_f1(counts),
        "macro_f1": macro_f1(class_scores(counts)),
        "exact_match": float(right.all(axis=1).mean()),
        "label_accuracy": float(right.mean()),
    }
