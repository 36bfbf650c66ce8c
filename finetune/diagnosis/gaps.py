"""When one figure is better than another by more than noise."""

import math

from finetune.diagnosis import thresholds
from finetune.diagnosis.evidence import Change, ThreeWays
from finetune.evaluation.evaluator import Evaluation


def better(a: Evaluation, b: Evaluation, least: float = thresholds.LEAST_GAP, change: Change | None = None) -> bool:
    """Whether `a` has the higher accuracy, by more than `least`, a fraction, and by more than noise.

    `change` from `b` to `a`, where both are of the same images: then only images that changed make noise (McNemar
    1947). Else both accuracies do, binomially.
    """
    gap = a.accuracy - b.accuracy
    if change is not None:
        noise = thresholds.NOISE * math.sqrt(max(change.gained + change.lost, 1)) / a.examples
    else:
        noise = thresholds.NOISE * math.hypot(a.standard_error, b.standard_error)
    # At 0 or 1 the binomial error vanishes: no difference is more certain than one image in the set.
    return gap > max(noise, least, 1.0 / a.examples)


def true_helps(ways: ThreeWays) -> bool:
    """Whether `is_training=True` is better than False."""
    return better(ways.is_training_true, ways.is_training_false, change=ways.by_true)


def true_hurts(ways: ThreeWays) -> bool:
    """Whether `is_training=True` is worse than False."""
    return better(ways.is_training_false, ways.is_training_true, change=_reverse(ways.by_true))


def recalibrating_helps(ways: ThreeWays) -> bool:
    """Whether recalibrated statistics are better than the moving ones, in accuracy or from a hopeless loss."""
    return better(ways.recalibrated, ways.is_training_false, change=ways.by_recalibrated) or _far_less_wrong(ways)


def recalibrating_hurts(ways: ThreeWays) -> bool:
    """Whether recalibrated statistics are worse than the moving ones."""
    return better(ways.is_training_false, ways.recalibrated, change=_reverse(ways.by_recalibrated))


def _far_less_wrong(ways: ThreeWays) -> bool:
    """A model too poor for its accuracy to tell may still be wrong by orders of magnitude under stale statistics."""
    excess = ways.is_training_false.loss - ways.recalibrated.loss
    return excess > max(thresholds.LEAST_EXCESS, 2 * ways.recalibrated.loss) and not recalibrating_hurts(ways)


def percent(evaluation: Evaluation) -> str:
    """Accuracy as people read it."""
    return f"{evaluation.accuracy:.1%}"


def _reverse(change: Change | None) -> Change | None:
    return None if change is None else Change(change.lost, change.gained)
