"""From evidence to one cause: a pure function over numbers."""

import math
from dataclasses import dataclass
from typing import Any

from finetune.batchnorm.decay import auto_decay
from finetune.diagnosis.evidence import BNEvidence, ThreeWays
from finetune.evaluation import Evaluation

NOISE = 3.0
"""A difference of two accuracies counts when it is more than this many of its standard errors..."""
LEAST_GAP = 0.01
"""...and more than this, as a fraction: smaller gaps are not what anybody loses weeks over."""
LEAST_EXCESS = 1.0
"""A loss this many nats, and twice the other loss, above it is not noise."""
FORGOTTEN = 0.01
"""A share of source statistics under this is no longer there."""


@dataclass(frozen=True)
class Verdict:
    """One cause with a stable code, the sentence a person reads, what led to it, and what to type."""

    cause: str
    sentence: str
    evidence: tuple[str, ...]
    remedy: str | None = None

    @property
    def healthy(self) -> bool:
        """Whether BatchNorm is fine (a model can be bad for other reasons)."""
        return self.cause == "healthy" or self.cause.startswith("not-batchnorm")

    def to_json(self) -> dict[str, Any]:
        """`verdict` of the JSON report."""
        return {
            "cause": self.cause,
            "healthy": self.healthy,
            "sentence": self.sentence,
            "evidence": list(self.evidence),
            "remedy": self.remedy,
        }


def judge(evidence: BNEvidence, *, target: str) -> Verdict:
    """Name the cause. `target` is what the user called the model, for the remedy's command line."""
    test, lines = evidence.test, _accuracy_lines(evidence)
    broken = [layer.name for layer in evidence.layers if not layer.finite]
    if broken:
        return Verdict(
            "not-finite",
            f"The moving statistics of {len(broken)} of {len(evidence.layers)} BN layers are NaN or infinite, "
            f"the first in {broken[0]}.",
            tuple(lines),
            f"finetune recalibrate-bn {target}",
        )
    lines += _statistics_lines(evidence)
    if _better(test.recalibrated, test.is_training_false) or _far_less_wrong(test):
        return _statistics_to_blame(evidence, lines, target)
    if _learnt_around(evidence):
        return Verdict(
            "trained-in-inference-mode",
            "The moving statistics were never updated, and the network learnt around them: is_training=False is the "
            f"better figure ({_percent(test.is_training_false)} against {_percent(test.is_training_true)}). "
            "Recalibrating would hurt; train again with updates on.",
            tuple(lines),
            "finetune run --bn train --bn-decay auto ... (the training loop must pass training=True)",
        )
    return _not_batchnorm(evidence, lines)


def _statistics_to_blame(evidence: BNEvidence, lines: list[str], target: str) -> Verdict:
    """Recalibrating the statistics, and nothing else, brings accuracy back."""
    test = evidence.test
    lost = f"is_training=False gives {_percent(test.is_training_false)} on test images, the same weights with "
    lost += f"statistics recalibrated on training images {_percent(test.recalibrated)}"
    remedy = f"finetune recalibrate-bn {target}"
    if all(layer.at_initial for layer in evidence.layers):
        return Verdict(
            "updates-never-ran",
            f"The moving statistics still have their initial values 0 and 1: the update operations never ran. {lost}.",
            tuple(lines),
            remedy,
        )
    if evidence.weights_moved and all(layer.at_source for layer in evidence.layers):
        if evidence.trained_with == "moving":
            cause, how = "frozen-statistics-trained-weights", "they were frozen while weights below them trained"
        else:
            cause, how = "updates-never-ran-since-source", "the update operations never ran in fine-tuning"
        return Verdict(
            cause,
            f"The moving statistics are bit-equal to the source checkpoint's while the weights moved: {how}. {lost}.",
            tuple(lines),
            remedy,
        )
    residual = evidence.residual
    if residual is not None and residual >= FORGOTTEN:
        updates = evidence.updates or 0
        return Verdict(
            "statistics-lag",
            f"Decay {evidence.decay:g} is too high for {updates} updates: {residual:.0%} of the source's statistics "
            f"is still in the moving averages. {lost}.",
            tuple(lines),
            f"{remedy}, or train with --bn-decay {auto_decay(max(updates, 1), max(updates, 1)):g}",
        )
    return Verdict(
        "statistics-lag",
        "The moving statistics lag behind the weights: nothing of the start is left in them, but the weights move "
        f"faster than the averaging window follows. {lost}.",
        tuple(lines),
        f"{remedy}, or train with a lower --bn-decay or a learning rate that ends near zero",
    )


def _learnt_around(evidence: BNEvidence) -> bool:
    """Statistics never touched, not on purpose, and both ways of using the data's own ones are worse."""
    untouched = all(layer.at_initial or layer.at_source for layer in evidence.layers)
    test, on_purpose = evidence.test, evidence.trained_with == "moving"
    return untouched and not on_purpose and _better(test.is_training_false, test.is_training_true)


def _not_batchnorm(evidence: BNEvidence, lines: list[str]) -> Verdict:
    train, test = evidence.train.is_training_false, evidence.test.is_training_false
    agree = f"moving and recalibrated statistics agree on test images ({_percent(test)} and "
    agree += f"{_percent(evidence.test.recalibrated)})"
    if train.loss > 0.5 * math.log(evidence.classes):
        return Verdict(
            "not-batchnorm: undertrained",
            f"BatchNorm is not to blame: {agree}, and training images are no better ({_percent(train)}).",
            tuple(lines),
            "finetune run with more --epochs, or another --learning-rate",
        )
    if train.accuracy - test.accuracy > 0.1 and _better(train, test):
        return Verdict(
            "not-batchnorm: overfitting",
            f"BatchNorm is not to blame: {agree}; the gap to training images ({_percent(train)}) is there with "
            "every kind of statistics.",
            tuple(lines),
            "finetune run with fewer --epochs, --augment crop-flip, --freeze-until STAGE, or more images",
        )
    return Verdict("healthy", f"BatchNorm is healthy: {agree}.", tuple(lines))


def differs(a: Evaluation, b: Evaluation) -> bool:
    """Whether two accuracies differ by more than noise."""
    noise = NOISE * math.hypot(a.standard_error, b.standard_error)
    # At 0 or 1 the binomial error vanishes: no difference is more certain than one image in the set.
    return abs(a.accuracy - b.accuracy) > max(noise, LEAST_GAP, 1.0 / a.examples)


def _better(a: Evaluation, b: Evaluation) -> bool:
    return a.accuracy > b.accuracy and differs(a, b)


def _far_less_wrong(test: ThreeWays) -> bool:
    """A model too poor for its accuracy to tell may still be wrong by orders of magnitude under stale statistics."""
    excess = test.is_training_false.loss - test.recalibrated.loss
    far = excess > max(LEAST_EXCESS, 2 * test.recalibrated.loss)
    return far and not _better(test.is_training_false, test.recalibrated)


def _accuracy_lines(evidence: BNEvidence) -> list[str]:
    def line(name: str, ways: ThreeWays) -> str:
        return (
            f"{name}: is_training=False {_percent(ways.is_training_false)}, True {_percent(ways.is_training_true)}, "
            f"recalibrated {_percent(ways.recalibrated)} of {ways.is_training_false.examples} images"
        )

    return [line("test", evidence.test), line("training subset", evidence.train)]


def _statistics_lines(evidence: BNEvidence) -> list[str]:
    layers, lines = evidence.layers, []
    worst = max(layers, key=lambda layer: layer.mean_shift)
    lines.append(f"largest drift: {worst.name}, moving mean {worst.mean_shift:.2f} sigmas from the training images'")
    initial = sum(layer.at_initial for layer in layers)
    source = sum(bool(layer.at_source) for layer in layers)
    lines.append(f"{initial} of {len(layers)} BN layers at initial values 0/1, {source} bit-equal to the source")
    if evidence.residual is not None:
        lines.append(
            f"share of the starting statistics left: {evidence.decay:g}^{evidence.updates} = {evidence.residual:.2g}"
        )
    if evidence.updates_enabled is False:
        lines.append("the run was made with --bn-updates off")
    return lines


def _percent(evaluation: Evaluation) -> str:
    return f"{evaluation.accuracy:.1%}"
