"""Which result is better, and when a difference is noise of a finite test set or of the seeds. Pure arithmetic."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FORMULA = (
    "|difference of mean test accuracy| <= 2 sqrt(p1(1-p1)/n + p2(1-p2)/n + s1^2/k1 + s2^2/k2): p mean test accuracy, "
    "n test images, s standard deviation over k seeds (no s term for one seed)"
)
"""When two results are within noise. The test-set terms are not divided by k: all seeds see the same images."""

PAIRED_FORMULA = (
    "|gained - lost| <= 2 sqrt(gained + lost): test images that one gets right and the other wrong, where both saw the "
    "same images (McNemar)"
)
"""The same for two single runs whose predictions of the same images are known: far sharper than two accuracies
(McNemar 1947)."""


_CONFIDENT = 1.96
"""Standard errors on either side of an estimate that hold the true value 95 times in 100."""
_POWER = 1.2816
"""The normal quantile of 0.9: the probability with which a difference that is there is to be found."""


@dataclass(frozen=True)
class Repeats:
    """The accuracies of one setup, repeated with other seeds, as fractions.

    test, validation: one entry per repeat, None where it is not known. examples: number of test images. selected:
    another validation score, by which to rank instead of the accuracy; larger is better, so a loss is negative.
    """

    name: str
    test: tuple[float | None, ...]
    validation: tuple[float | None, ...]
    examples: int = 1
    selected: tuple[float | None, ...] | None = None

    @property
    def mean(self) -> float | None:
        """Mean of the known test accuracies; None if there is none."""
        return _mean(_known(self.test))

    @property
    def spread(self) -> float | None:
        """Standard deviation (n - 1) of the known test accuracies; None for fewer than two."""
        return _spread(_known(self.test))

    @property
    def validation_mean(self) -> float | None:
        """Mean of the validation accuracies; None where a repeat has none."""
        return _mean(_known(self.validation)) if None not in self.validation else None

    @property
    def validation_spread(self) -> float | None:
        """Standard deviation (n - 1) of the validation accuracies; None where a repeat has none."""
        return _spread(_known(self.validation)) if None not in self.validation else None

    @property
    def rank_key(self) -> float | None:
        """Mean of the validation score by which to rank; None where a repeat has none."""
        scores = self.validation if self.selected is None else self.selected
        return mean_of(scores)

    @property
    def variance(self) -> float:
        """Variance of the mean test accuracy: from the finite test set, and from the seeds if there are several."""
        p, spread = self.mean or 0.0, self.spread
        return p * (1 - p) / self.examples + (spread**2 / len(_known(self.test)) if spread is not None else 0.0)


@dataclass(frozen=True)
class Interval:
    """A difference of two accuracies, as a fraction, and the interval that holds the true one 95 times in 100."""

    estimate: float
    low: float
    high: float

    @property
    def standard_error(self) -> float:
        """Of the estimate, as a fraction."""
        return (self.high - self.low) / (2 * _CONFIDENT)

    def __str__(self) -> str:
        return f"{100 * self.low:+.1f} to {100 * self.high:+.1f} points"


@dataclass(frozen=True)
class Paired:
    """Two results on the same images, compared image by image. Far sharper than two accuracies.

    gained: images that the result gets right and the reference gets wrong. lost: the reverse. Of images with several
    labels, which are right in part, the sums of what each gains and loses.
    squares: the sum of the squared differences; None where every difference is a whole image. The labels of an image
    are not independent, so the image is the unit also there.
    """

    gained: float
    lost: float
    squares: float | None = None

    def __add__(self, other: "Paired") -> "Paired":
        """The images of both comparisons together."""
        parts = self.squares is not None or other.squares is not None
        squares = self.changed + other.changed if parts else None
        return Paired(self.gained + other.gained, self.lost + other.lost, squares)

    @property
    def changed(self) -> float:
        """The sum of squared differences: of whole images, how many changed."""
        return self.gained + self.lost if self.squares is None else self.squares

    def interval(self, images: int) -> Interval:
        """The difference of the two accuracies on so many images, by Wald's interval with half an image added to each
        of the four outcomes (Agresti & Min 2005): right also for few images and for no change at all."""
        changed, difference, n = self.changed + 1, self.gained - self.lost, images + 2
        error = math.sqrt(max(changed - difference**2 / n, 0.0)) / n
        return Interval(difference / images, difference / n - _CONFIDENT * error, difference / n + _CONFIDENT * error)

    @property
    def standard_error(self) -> float:
        """Standard error of `gained - lost`, in images, if both are equally likely (McNemar 1947; of parts of images,
        the root of the sum of squares, which is the same of whole ones)."""
        return math.sqrt(self.changed)

    @property
    def within_noise(self) -> bool:
        """Whether `gained - lost` is at most two standard errors."""
        return abs(self.gained - self.lost) <= 2 * self.standard_error

    def reversed(self) -> "Paired":
        """The same images, with the result and the reference exchanged."""
        return Paired(gained=self.lost, lost=self.gained, squares=self.squares)


def compare_paired(correct: np.ndarray, reference: np.ndarray) -> Paired:
    """Compare two results on the same n images. Both are bool `[n]`, whether each image is classified correctly, or
    float64 `[n]`, the accuracy of each image that has several labels."""
    if correct.dtype == bool:
        return Paired(gained=int(np.sum(correct & ~reference)), lost=int(np.sum(reference & ~correct)))
    change = correct - reference
    gained, lost = (float(np.maximum(one, 0).sum()) for one in (change, -change))
    return Paired(gained, lost, float(np.sum(change**2)))


def images_needed(difference: float, changed: float) -> int:
    """Images on which a paired test (5 %, two-sided) finds a difference of accuracies nine times in ten (Connor 1987).

    difference: of the two accuracies, a fraction above 0. changed: the share of images whose outcome differs.
    """
    changed = max(changed, difference)
    roots = _CONFIDENT * math.sqrt(changed) + _POWER * math.sqrt(changed - difference**2)
    return math.ceil((roots / difference) ** 2)


def rank_results(results: Sequence[Repeats]) -> tuple[str, list[int]]:
    """("validation" or "test", the positions of `results`, the best first).

    Ranks by validation accuracy, or `selected`, if all results have one, else by test accuracy. Choosing by test
    accuracy trains on the test set a little, so it is the last resort, and reports must mention it. Equal results keep
    their order.
    """
    by = "validation" if all(one.rank_key is not None for one in results) else "test"
    keys = [one.rank_key if by == "validation" else one.mean for one in results]
    return by, sorted(range(len(results)), key=lambda position: -(keys[position] or 0.0))


def ranking_words(by: str, *, one: str = "run", score: str = "accuracy") -> str:
    """What a reader of the ranking must know; `one` names what was ranked, `score` by which validation score."""
    if by == "validation":
        among = "" if score == "accuracy" else "; differences from the best are of test accuracy"
        return f"ranked by validation {score}; the test {score} of the best is then an honest estimate{among}"
    return (
        f"ranked by TEST accuracy, because a {one} has no validation images (validation = 0): the best was chosen on "
        "the test set, so its accuracy is optimistic"
    )


def difference_words(one: Repeats, best: Repeats, pairs: Paired | None = None) -> str:
    """How `one` compares with the best in test accuracy: "= best within noise", or the difference in points."""
    if one.mean is None or best.mean is None:
        return ""
    difference = one.mean - best.mean
    noise = 2 * math.sqrt(one.variance + best.variance)
    if pairs.within_noise if pairs else abs(difference) <= noise:
        return "= best within noise"
    return f"{100 * difference:+.1f} points"


def mean_of(values: Sequence[float | None]) -> float | None:
    """Their mean; None where there is none, or one of them is not known."""
    return None if None in values else _mean(_known(values))


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _spread(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
