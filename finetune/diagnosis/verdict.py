"""From evidence to one cause: a pure function over numbers. The rules are tried in order, the first that finds wins."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune.diagnosis import verdict_words
from finetune.diagnosis.evidence import BNEvidence
from finetune.diagnosis.rules import data_rules, statistics_rules, training_rules
from finetune.diagnosis.rules.rule import Commands, Finding, Reading

RULES: tuple[Callable[[Reading], Finding | None], ...] = (
    # What makes every other figure meaningless.
    statistics_rules.not_finite,
    # What recalibration would hide: it repairs the statistics for pixels that are fed wrongly.
    data_rules.wrong_preprocessing,
    data_rules.labels,
    # Statistics that fit the training images are not made wrong by test images of another kind.
    data_rules.different_data,
    # A good is_training=True that no statistics can reach.
    data_rules.batch_composition,
    # The statistics themselves, from what is certain bit by bit to what is inferred.
    statistics_rules.updates_never_ran,
    statistics_rules.partially_restored,
    statistics_rules.source_untouched,
    statistics_rules.frozen_in_part,
    statistics_rules.share_left,
    statistics_rules.averaged_weights,
    statistics_rules.noisy,
    statistics_rules.outrun,
    # Networks that need the noise of their batches, or learnt around their statistics.
    statistics_rules.few_values,
    statistics_rules.learnt_around,
    # Whatever is wrong now is not BatchNorm's doing.
    training_rules.undertrained,
    training_rules.overfitting,
)


@dataclass(frozen=True)
class Verdict:
    """One cause with a stable code, the sentence a person reads, what led to it, what it is not, and what to type."""

    cause: str
    sentence: str
    evidence: tuple[str, ...]
    remedy: str | None = None
    not_because: tuple[str, ...] = ()

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
            "not_because": list(self.not_because),
            "remedy": self.remedy,
        }


def judge(evidence: BNEvidence, commands: Commands) -> Verdict:
    """Name the cause; `commands` word its remedy."""
    reading = Reading(evidence, commands)
    for rule in RULES:
        found = rule(reading)
        if found is not None:
            break
    else:
        found = training_rules.healthy(reading)
    return Verdict(
        found.cause,
        found.sentence,
        (*verdict_words.accuracies(evidence), *found.because, *verdict_words.statistics(reading)),
        found.remedy,
        verdict_words.ruled_out(reading, found.cause),
    )
