"""When one figure is better than another by more than noise."""

import math

from finetune.diagnosis import thresholds
from finetune.evaluation import Evaluation


def differs(a: Evaluation, b: Evaluation, least: float = thresholds.LEAST_GAP) -> bool:
    """Whether two accuracies differ by more than noise and more than `least`, a fraction."""
    noise = thresholds.NOISE * math.hypot(a.standard_error, b.standard_error)
    # At 0 or 1 the binomial error vanishes: no difference is more certain than one image in the set.
    return abs(a.accuracy - b.accuracy) > max(noise, least, 1.0 / a.examples)


def better(a: Evaluation, b: Evaluation, least: float = thresholds.LEAST_GAP) -> bool:
    """Whether `a` has the higher accuracy, by more than noise."""
    return a.accuracy > b.accuracy and differs(a, b, least)


def far_less_wrong(a: Evaluation, b: Evaluation) -> bool:
    """Whether `a` has the lower loss by far: a model too poor for its accuracy to tell may still be wrong by orders of
    magnitude under stale statistics."""
    return b.loss - a.loss > max(thresholds.LEAST_EXCESS, 2 * a.loss) and not better(b, a)


def percent(evaluation: Evaluation) -> str:
    """Accuracy as people read it."""
    return f"{evaluation.accuracy:.1%}"
