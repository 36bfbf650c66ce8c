"""From evidence to one cause: a pure function over numbers. The first rule that applies names the cause."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from finetune.diagnosis.confidence import confidence
from finetune.diagnosis.evidence import BNEvidence, Facts, PreprocessingCheck, Share, better, percent
from finetune.diagnosis.rules import data_rules, statistics_rules
from finetune.diagnosis.rules.neighbours import runner_up
from finetune.diagnosis.rules.rule import Basis, Commands, Finding, Reading, size

UNDETERMINED = "undetermined"
"""The verdict that there are too few images for one."""

RULES: tuple[Callable[[Reading], Finding | None], ...] = (
    # A cause that makes every other figure meaningless.
    statistics_rules.not_finite,
    # Statistics at their initial values say nothing about the pixels. Another preprocessing may do well with them by
    # chance.
    statistics_rules.not_saved,
    statistics_rules.updates_never_ran,
    # Causes that recalibration would hide: it repairs the statistics for pixels that are fed wrongly.
    data_rules.wrong_preprocessing,
    data_rules.test_images_read_otherwise,
    data_rules.labels,
    # Statistics that fit the training images are not to blame for test images of another kind.
    data_rules.different_data,
    # A good is_training=True that no statistics can reach.
    data_rules.batch_composition,
    # The statistics themselves: first causes that show bit by bit, then those that are inferred.
    statistics_rules.partially_restored,
    statistics_rules.frozen_base,
    statistics_rules.source_untouched,
    statistics_rules.frozen_in_part,
    statistics_rules.share_left,
    statistics_rules.averaged_weights,
    statistics_rules.noisy,
    statistics_rules.outrun,
    # Networks that need the noise of their batches, or that learnt around their statistics.
    statistics_rules.few_values,
    statistics_rules.learnt_around,
    # Images that cannot show whether the statistics are to blame.
    data_rules.undetermined,
    # Causes outside of BatchNorm.
    data_rules.undertrained,
    data_rules.overfitting,
    data_rules.inference_by_design,
)


@dataclass(frozen=True)
class Verdict:
    """One cause, or `undetermined`.

    Attributes:
        cause: A stable code.
        sentence: The same for people.
        evidence: The lines that led to it.
        remedy: A command to type.
        not_because: What it is not.
        confidence: How often such a verdict is right, in [0, 1], measured in the clinic.
        runner_up: The cause that came second, "" where there is none.
        why_not: The figure by which the runner-up lost.
        basis: What the verdict stands on.
        possible: Where it is undetermined, the cause if BatchNorm is to blame, and the one if it is not.
    """

    cause: str
    sentence: str
    evidence: tuple[str, ...]
    remedy: str | None = None
    not_because: tuple[str, ...] = ()
    confidence: float = 0.0
    runner_up: str = ""
    why_not: str = ""
    basis: Basis = "excluded"
    possible: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether BatchNorm is healthy. The model can be bad for other reasons."""
        return self.cause in ("healthy", "inference-mode-by-design") or self.cause.startswith("not-batchnorm")

    @property
    def exit_code(self) -> int:
        """Of `finetune diagnose-bn`: 0 healthy, 3 unhealthy, 4 undetermined."""
        return 4 if self.cause == UNDETERMINED else 0 if self.healthy else 3

    @property
    def doubts(self) -> tuple[str, ...]:
        """The runner-up, or the causes still possible, and the confidence, a sentence each."""
        if self.possible:
            ill, harmless = self.possible
            return (f"possible: {ill}, if recalibrating helps; {harmless}, if it does not",)
        lost = f"runner-up: {self.runner_up}; against it: {self.why_not}"
        return (lost, f"confidence: {self.confidence:.0%} of such verdicts are right")

    def to_json(self) -> dict[str, Any]:
        """`verdict` of the JSON report. `healthy` is null where it is undetermined."""
        return {**asdict(self), "healthy": None if self.cause == UNDETERMINED else self.healthy}


def judge(evidence: BNEvidence, commands: Commands) -> Verdict:
    """Name the cause. Its remedy is typed with `commands`."""
    reading = Reading(evidence, commands)
    found = _find(reading, RULES)
    other, why = "", ""
    possible: tuple[str, ...] = ()
    if found.cause == UNDETERMINED:
        rules = [rule for rule in RULES if rule is not data_rules.undetermined]
        possible = (_find(replace(reading, assume_cured=True), rules).cause, _find(reading, rules).cause)
    else:
        other, why = runner_up(reading, found.cause)
    return Verdict(
        found.cause,
        found.sentence,
        (*_accuracy_lines(evidence), *found.because, *_statistics_lines(reading)),
        found.remedy,
        _ruled_out(reading, found.cause),
        confidence=confidence(reading, found),
        runner_up=other,
        why_not=why,
        basis=found.basis,
        possible=possible,
    )


def _find(reading: Reading, rules: Sequence[Callable[[Reading], Finding | None]]) -> Finding:
    """The finding of the first rule that applies."""
    return next((one for rule in rules if (one := rule(reading))), None) or data_rules.healthy(reading)


def _accuracy_lines(evidence: BNEvidence) -> list[str]:
    """The accuracy in the three modes, a line a split."""
    return [
        f"{name}: is_training=False {percent(scores.is_training_false)}, True {percent(scores.is_training_true)}, "
        f"recalibrated {percent(scores.recalibrated)} of {scores.is_training_false.examples} images"
        for name, scores in (("test", evidence.test), ("training subset", evidence.train))
    ]


def _statistics_lines(seen: Reading) -> list[str]:
    """What is known of the moving statistics, whatever the verdict."""
    facts, layers = seen.evidence.facts, seen.evidence.layers
    worst = max(layers, key=size)
    drift = (
        f"largest drift: {worst.name}, moving mean {worst.mean_shift:.2f} sigmas and log variance "
        f"{worst.log_variance_ratio:.2f} from the training images'"
    )
    lines = [drift if seen.onset is None else f"{drift}; it starts in {seen.onset.name}"]
    if seen.first_alone:
        lines.append("the drift lies in the first layer alone, which points to the pixels that the network is fed")
    if seen.noise_ratio is not None:
        lines.append(
            f"the moving means differ from the data's {seen.noise_ratio:.2g} times as much as one batch's mean does"
        )
    initial = sum(layer.at_initial for layer in layers)
    source = sum(bool(layer.at_source) for layer in layers)
    if initial or source:
        mean, variance = layers[0].initial
        at = f"{initial} of {len(layers)} BN layers at initial values {mean:g}/{variance:g}"
        lines.append(f"{at}, {source} bit-equal to the source")
    if facts.affine_moved is False:
        lines.append("gamma and beta of every BN layer are bit-equal to the source's: the layers were frozen")
    if untrained := [layer for layer in layers if layer.gamma_at_initial]:
        lines.append(
            f"gamma of {len(untrained)} of {len(layers)} BN layers is exactly what it starts from (the first is "
            f"{untrained[0].name}): these layers were not trained, or not restored"
        )
    if seen.share is not None:
        lines.append(_share_line(seen.share))
    if facts.residual is not None and facts.updates:
        lines.append(
            f"share of the starting {facts.statistics} that is left, by the records: {facts.decay:g}^{facts.updates} = "
            f"{facts.residual:.2g}"
        )
    if seen.evidence.preprocessing is not None:
        lines += _preprocessing_lines(seen.evidence.preprocessing, facts)
    if facts.updates_enabled is False:
        lines.append(facts.why_disabled)
    dead = [layer.name for layer in layers if layer.dead_gamma or layer.dead_channels]
    if dead:
        channels = sum(layer.dead_channels > 0 for layer in layers)
        gamma = sum(layer.dead_gamma > 0 for layer in layers)
        lines.append(
            f"{len(dead)} layers have dead channels ({channels} with constant inputs, {gamma} with gamma 0), the first "
            f"is {dead[0]}"
        )
    return lines


def _preprocessing_lines(check: PreprocessingCheck, facts: Facts) -> list[str]:
    """What the statistics and the records say about the pixels of the training."""
    lines, expected, usual = [], facts.expected_preprocessing, facts.usual_preprocessing
    for one in check.recovered[:1]:
        lines.append(
            f"worked out from the first layer's statistics, with standard errors: {one.with_errors} ('{one.name}'); "
            f"the equations miss {one.misfit:.2f} sigmas"
        )
    if expected is not None and check.current != expected:
        lines.append(f"the pretrained weights were made with '{expected}' pixels, these are fed as '{check.current}'")
    if usual is not None:
        tried = [trial for trial in check.trials if trial.name == usual]
        lines.append(
            f"slim's own training script feeds this network '{usual}' pixels by default"
            + "".join(f": is_training=False gives {trial.accuracy:.1%} with them" for trial in tried)
        )
    return lines


def _share_line(share: Share) -> str:
    if share.residual > abs(share.share):
        return f"no share of the {share.origin} statistics is left that a fit to the arrays can distinguish from noise"
    return (
        f"share of the {share.origin} statistics that is left: {share.share:.0%}, fitted to the arrays (the fit misses "
        f"{share.residual:.0%})"
    )


def _ruled_out(seen: Reading, cause: str) -> tuple[str, ...]:
    """The causes that the verdict rules out, each with the figure that shows it."""
    evidence, lines = seen.evidence, []
    test, train = evidence.test, evidence.train
    stated = ("not-finite", "trained-in-inference-mode", "wrong-preprocessing", "healthy", UNDETERMINED)
    if seen.acquitted and not seen.cured and cause not in stated:
        lines.append(f"not stale statistics: {data_rules.agreement(seen)}")
    check = evidence.preprocessing
    others = [trial for trial in check.trials if trial.name != check.current] if check else []
    # Other pixels that help as well are the runner-up, which says why they lost.
    if check is not None and others and data_rules.wrong_preprocessing(seen) is None:
        best = max(others, key=lambda trial: trial.accuracy)
        own = next(trial for trial in check.trials if trial.name == check.current)
        lines.append(
            f"not the preprocessing: is_training=False gives {own.accuracy:.1%} with '{check.current}' on "
            f"{check.examples} training images, {best.accuracy:.1%} with '{best.name}', the best of {len(others)}"
        )
    if evidence.labels is not None and cause != "not-batchnorm: labels":
        lines.append(
            f"not the labels: the best renumbering of the classes explains {evidence.labels.permuted_accuracy:.1%} of "
            f"the predictions, the given numbering {evidence.labels.accuracy:.1%}"
        )
    if cause != "different-data":
        lines.append(
            f"not different data alone: {percent(train.is_training_false)} on training images, "
            f"{percent(test.is_training_false)} on test images"
            if seen.test_is_far
            else f"not different data: the statistics of test images are {seen.test_distance[0]:.2f} sigmas from those "
            "of training images in the first layers"
        )
    if evidence.batches is not None and cause != "batch-composition":
        lines.append(
            f"not the batches: is_training=True gives {percent(evidence.batches.shuffled)} shuffled, "
            f"{percent(evidence.batches.grouped)} sorted by class"
        )
    if cause != "not-batchnorm: overfitting" and not better(train.best, test.best, 0.1):
        lines.append(f"not overfitting: {percent(train.best)} on training images, {percent(test.best)} on test images")
    return tuple(lines)
