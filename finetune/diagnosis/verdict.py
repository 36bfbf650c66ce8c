"""From evidence to one cause: a pure function over numbers. The first rule that applies names the cause."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune.diagnosis.evidence import BNEvidence
from finetune.diagnosis.rules import data_rules, statistics_rules, training_rules
from finetune.diagnosis.rules.rule import Commands, Finding, Reading
from finetune.diagnosis.verdict_words import accuracy_lines, ruled_out, statistics_lines

RULES: tuple[Callable[[Reading], Finding | None], ...] = (
    # A cause that makes every other figure meaningless.
    statistics_rules.not_finite,
    # Causes that recalibration would hide: it repairs the statistics for pixels that are fed wrongly.
    data_rules.wrong_preprocessing,
    data_rules.labels,
    # Statistics that fit the training images are not to blame for test images of another kind.
    data_rules.different_data,
    # A good is_training=True that no statistics can reach.
    data_rules.batch_composition,
    # The statistics themselves: first causes that show bit by bit, then those that are inferred.
    statistics_rules.updates_never_ran,
    statistics_rules.partially_restored,
    statistics_rules.source_untouched,
    statistics_rules.frozen_in_part,
    statistics_rules.share_left,
    statistics_rules.averaged_weights,
    statistics_rules.noisy,
    statistics_rules.outrun,
    # Networks that need the noise of their batches, or that learnt around their statistics.
    statistics_rules.few_values,
    statistics_rules.learnt_around,
    # Causes outside of BatchNorm.
    training_rules.undertrained,
    training_rules.overfitting,
)


@dataclass(frozen=True)
class Verdict:
    """One cause.

    cause: a stable code. sentence: for people. evidence: the lines that led to it. not_because: what it is not.
    remedy: a command to type.
    """

    cause: str
    sentence: str
    evidence: tuple[str, ...]
    remedy: str | None = None
    not_because: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether BatchNorm is healthy. The model can be bad for other reasons."""
        return self.cause == "healthy" or self.cause.startswith("not-batchnorm")

    def to_json(self) -> dict[str, Any]:
        """`verdict` of the JSON report."""
        return {
            "cause": self.cause,
            "healthy": self.healthy,
            "sentence": self.sentence,
            "evidence": list(self.evidence),
            "not_because": list(self.not_because),
            "remedy": self.remedy,
        }


def judge(evidence: BNEvidence, commands: Commands) -> Verdict:
    """Name the cause. Its remedy is typed with `commands`."""
    reading = Reading(evidence, commands)
    found = next((one for rule in RULES if (one := rule(reading))), None) or training_rules.healthy(reading)
    return Verdict(
        found.cause,
        found.sentence,
        (*accuracy_lines(evidence), *found.because, *statistics_lines(reading)),
        found.remedy,
        ruled_out(reading, found.cause),
    )
