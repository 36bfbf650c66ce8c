"""When one figure is better than another by more than noise."""

import math

from finetune.diagnosis import thresholds
from finetune.diagnosis.evidence import ModeScores
from finetune.evaluation.evaluator import Evaluation
from finetune.evaluation.significance import Paired


def better(
    a: Evaluation,
    b: Evaluation,
    least: float = thresholds.LEAST_GAP,
    paired: Paired | None = None,
    errors: float = thresholds.NOISE,
) -> bool:
    """Whether `a` has the higher accuracy, by more than `least`, a fraction, and by more than `errors` standard errors.

    `paired` compares `a` with `b` on the same images. Then only images that changed make noise (McNemar 1947);
    without it, both accuracies do, binomially.
    """
    if paired is not None:
        error = max(paired.standard_error, 1.0) / a.examples
    else:
        error = math.hypot(a.standard_error, b.standard_error)
    # At 0 or 1 the binomial error vanishes, but no difference is more certain than one image in the set.
    return a.accuracy - b.accuracy > max(errors * error, least, 1.0 / a.examples)


def true_helps(scores: ModeScores) -> bool:
    """Whether `is_training=True` is better than False."""
    return better(scores.is_training_true, scores.is_training_false, paired=scores.by_true)


def true_hurts(scores: ModeScores) -> bool:
    """Whether `is_training=True` is worse than False."""
    return better(scores.is_training_false, scores.is_training_true, paired=_reversed(scores.by_true))


def recalibrating_helps(scores: ModeScores) -> bool:
    """Whether recalibrated statistics are better than the moving ones, in accuracy or from a hopeless loss."""
    if better(scores.recalibrated, scores.is_training_false, paired=scores.by_recalibrated):
        return True
    # A poor model's accuracy may stay the same while stale statistics make its loss larger by orders of magnitude.
    excess = scores.is_training_false.loss - scores.recalibrated.loss
    return excess > max(thresholds.LEAST_EXCESS, 2 * scores.recalibrated.loss) and not recalibrating_hurts(scores)


def recalibrating_hurts(scores: ModeScores) -> bool:
    """Whether recalibrated statistics are worse than the moving ones."""
    return better(scores.is_training_false, scores.recalibrated, paired=_reversed(scores.by_recalibrated))


def percent(evaluation: Evaluation) -> str:
    """Accuracy as people read it."""
    return f"{evaluation.accuracy:.1%}"


def _reversed(paired: Paired | None) -> Paired | None:
    return None if paired is None else paired.reversed()
