"""The outcome of a diagnosis as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from finetune.diagnosis.evidence import BatchCheck, BNEvidence, ModeScores, PreprocessingCheck
from finetune.diagnosis.verdict import Verdict

SCHEMA_VERSION = 2
"""Of the JSON report, documented in docs/diagnosis.md."""


@dataclass(frozen=True)
class Diagnosis:
    """What was measured on which model, and what it means."""

    target: str
    evidence: BNEvidence
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """The report of `diagnose-bn --json`, and `bn.json`; docs/diagnosis.md describes every key."""
        evidence, facts = self.evidence, self.evidence.facts
        splits = {"test": evidence.test, "train": evidence.train}
        return {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "accuracy": {name: _figures(scores, "accuracy") for name, scores in splits.items()},
            "loss": {name: _figures(scores, "loss") for name, scores in splits.items()},
            "examples": {name: scores.is_training_false.examples for name, scores in splits.items()},
            "batch_size": evidence.batch_size,
            "facts": asdict(facts),
            "decay": facts.decay,
            "updates": facts.updates,
            "residual": facts.residual,
            "shares": [asdict(share) for share in evidence.shares],
            "labels": asdict(evidence.labels) if evidence.labels else None,
            "preprocessing": _preprocessing(evidence.preprocessing),
            "batches": _batches(evidence.batches),
            "partly_repaired": evidence.partly_repaired.accuracy if evidence.partly_repaired else None,
            "verdict": self.verdict.to_json(),
            "layers": [asdict(layer) for layer in evidence.layers],
        }


def _figures(scores: ModeScores, figure: str) -> dict[str, float]:
    """The accuracy (a fraction) or the loss (nats per image) of each mode."""
    modes = ("is_training_false", "is_training_true", "recalibrated")
    return {mode: getattr(getattr(scores, mode), figure) for mode in modes}


def _preprocessing(check: PreprocessingCheck | None) -> dict[str, Any] | None:
    if check is None:
        return None
    return {
        "current": check.current,
        "examples": check.examples,
        "trials": [asdict(trial) for trial in check.trials],
        "best": check.best,
        "best_accuracy": {
            "test": check.test.accuracy if check.test else None,
            "train": check.train.accuracy if check.train else None,
        },
    }


def _batches(check: BatchCheck | None) -> dict[str, Any] | None:
    if check is None:
        return None
    return {
        "examples": check.shuffled.examples,
        "is_training_true_by_size": {str(size): scored.accuracy for size, scored in check.sizes.items()},
        "shuffled": check.shuffled.accuracy,
        "grouped": check.grouped.accuracy,
        "is_training_false": check.moving.accuracy,
    }
