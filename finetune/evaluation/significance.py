"""Which result is better, and when a difference is noise: of a finite test set, and of seeds. Pure arithmetic."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FORMULA = (
    "|difference of mean test accuracy| <= 2 sqrt(p1(1-p1)/n + p2(1-p2)/n + s1^2/k1 + s2^2/k2): p mean test accuracy, "
    "n test images, s standard deviation over k seeds (no s term for one seed)"
)
"""When two results are within noise. The test-set terms are not divided by k: all seeds meet the same images."""

PAIRED_FORMULA = (
    "|gained - lost| <= 2 sqrt(gained + lost): test images that one gets right and the other wrong, where both saw the "
    "same images (McNemar)"
)
"""The same for two single runs whose predictions of the same images are known: far sharper than two accuracies."""


@dataclass(frozen=True)
class Repeats:
    """The results of one thing, repeated with other seeds: accuracies as fractions, None where one is not known.

    test, validation: one entry a repeat. examples: test images.
    """

    name: str
    test: tuple[float | None, ...]
    validation: tuple[float | None, ...]
    examples: int = 1

    @property
    def mean(self) -> float | None:
        """Of the test accuracies that are known."""
        return _mean(_known(self.test))

    @property
    def spread(self) -> float | None:
        """Their standard deviation (n - 1); None for fewer than two."""
        return _spread(_known(self.test))

    @property
    def validation_mean(self) -> float | None:
        """Of the validation accuracies; None where a repeat has none."""
        return _mean(_known(self.validation)) if None not in self.validation else None

    @property
    def validation_spread(self) -> float | None:
        """Their standard deviation (n - 1)."""
        return _spread(_known(self.validation)) if None not in self.validation else None

    @property
    def variance(self) -> float:
        """Of the mean test accuracy, from a finite test set and from the seeds where there are several."""
        p, spread = self.mean or 0.0, self.spread
        return p * (1 - p) / self.examples + (spread**2 / len(_known(self.test)) if spread is not None else 0.0)


@dataclass(frozen=True)
class Paired:
    """The same images, one by one: how many one result gets right that the reference gets wrong, and the reverse."""

    gained: int
    lost: int

    @property
    def within_noise(self) -> bool:
        """Whether so uneven a split of the images that differ is chance, at two standard errors."""
        return abs(self.gained - self.lost) <= 2 * math.sqrt(self.gained + self.lost)


def paired(correct: np.ndarray, reference: np.ndarray) -> Paired:
    """Of two bool `[n]` over the same images."""
    return Paired(int(np.sum(correct & ~reference)), int(np.sum(reference & ~correct)))


def rank(results: Sequence[Repeats]) -> tuple[str, list[int]]:
    """("validation" or "test", the positions of `results`, the best first).

    By validation accuracy where all have one, else by test accuracy: to choose by test accuracy is to train on the test
    set a little, so it is the last resort, and to be said. Equals keep their order.
    """
    by = "validation" if all(one.validation_mean is not None for one in results) else "test"
    keys = [one.validation_mean if by == "validation" else one.mean for one in results]
    return by, sorted(range(len(results)), key=lambda position: -(keys[position] or 0.0))


def ranking_words(by: str, *, one: str = "run") -> str:
    """What a reader of the ranking must know; `one` is what was ranked."""
    if by == "validation":
        return "ranked by validation accuracy; the test accuracy of the best is then an honest estimate"
    return (
        f"ranked by TEST accuracy, because a {one} has no validation images (validation = 0): the best was chosen on "
        "the test set, so its accuracy is optimistic"
    )


def verdict(one: Repeats, best: Repeats, pairs: Paired | None = None) -> str:
    """How `one` compares with the best in test accuracy: "= best within noise", or the difference in points."""
    if one.mean is None or best.mean is None:
        return ""
    difference = one.mean - best.mean
    noise = 2 * math.sqrt(one.variance + best.variance)
    if pairs.within_noise if pairs else abs(difference) <= noise:
        return "= best within noise"
    return f"{100 * difference:+.1f} points"


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _spread(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
