"""Diagnose a target, report the outcome as JSON, and recalibrate it where its statistics are the cause."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.batchnorm.statistics import recalibrate
from finetune.batchnorm.subject import Runnable, Statistics
from finetune.data.batches import EvalSet, feeding
from finetune.diagnosis import RECALIBRATION_IMAGES, TRAINING_IMAGES
from finetune.diagnosis.evidence import BatchCheck, BNEvidence, ModeScores, PreprocessingCheck, better
from finetune.diagnosis.measure import Extent, examine
from finetune.diagnosis.targets.target import Target
from finetune.diagnosis.verdict import Verdict, judge
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation.evaluator import Evaluation, Evaluator, Pass
from finetune.runs.views import with_views

SCHEMA_VERSION = 2
"""Of the JSON report, documented in docs/diagnosis.md."""
_SHOWN = 6
"""Test images that the page shows under two preprocessings."""


@dataclass(frozen=True)
class Diagnosis:
    """What was measured on which model, and what it means."""

    target: str
    evidence: BNEvidence
    verdict: Verdict
    fed: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    """A few test images under the present preprocessing and under a better one, where there is one: name -> float32
    `[images, height, width, channels]`."""

    def to_json(self) -> dict[str, Any]:
        """The report of `diagnose-bn --json`, and `bn.json`; docs/diagnosis.md describes every key."""
        evidence, facts = self.evidence, self.evidence.facts
        splits = {"test": evidence.test, "train": evidence.train}
        return {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "accuracy": {name: _figures(scores, "accuracy") for name, scores in splits.items()},
            "loss": {name: _figures(scores, "loss") for name, scores in splits.items()},
            "label_accuracy": {name: _figures(scores, "label_accuracy") for name, scores in splits.items()}
            if evidence.per_label
            else None,
            "map": {name: _figures(scores, "map") for name, scores in splits.items()}
            if evidence.test.is_training_false.multi_label
            else None,
            "examples": {name: scores.is_training_false.examples for name, scores in splits.items()},
            "batch_size": evidence.batch_size,
            "facts": asdict(facts),
            "decay": facts.decay,
            "updates": facts.updates,
            "residual": facts.residual,
            "shares": [asdict(share) for share in evidence.shares],
            "labels": asdict(evidence.labels) if evidence.labels else None,
            "preprocessing": _preprocessing(evidence.preprocessing),
            "reading": {"name": evidence.reading.name, "test_accuracy": evidence.reading.test.accuracy}
            if evidence.reading
            else None,
            "batches": _batches(evidence.batches),
            "partly_repaired": evidence.partly_repaired.accuracy if evidence.partly_repaired else None,
            "verdict": self.verdict.to_json(),
            "layers": [asdict(layer) for layer in evidence.layers],
        }


def _figures(scores: ModeScores, figure: str) -> dict[str, float]:
    """The accuracy, of images or labels, the mean average precision (fractions), or the loss (nats per image) of each
    mode."""
    modes = ("is_training_false", "is_training_true", "recalibrated")
    return {mode: getattr(getattr(scores, mode), figure) for mode in modes}


def _preprocessing(check: PreprocessingCheck | None) -> dict[str, Any] | None:
    if check is None:
        return None
    return {
        "current": check.current,
        "examples": check.examples,
        "trials": [asdict(trial) for trial in check.trials],
        "recovered": [{"name": one.name, "with_errors": one.with_errors, **asdict(one)} for one in check.recovered],
        "best": check.best,
        "best_accuracy": {
            name: scored and scored.accuracy for name, scored in (("test", check.test), ("train", check.train))
        },
    }


def _batches(check: BatchCheck | None) -> dict[str, Any] | None:
    """The accuracies by batch size and by order, as fractions."""
    if check is None:
        return None
    return {
        "examples": check.shuffled.examples,
        "is_training_true_by_size": {str(size): scored.accuracy for size, scored in check.sizes.items()},
        "shuffled": check.shuffled.accuracy,
        "grouped": check.grouped.accuracy,
        "is_training_false": check.moving.accuracy,
    }


def diagnose(
    target: Target,
    *,
    images: int = TRAINING_IMAGES,
    extent: Extent = "default",
    on_batch: Callable[[], None] | None = None,
) -> Diagnosis:
    """Examine on all test and at most `images` training images, judge, and keep the report with the target."""
    evidence = examine(
        target.subject,
        test=target.data.test(),
        train=target.data.training(images),
        source=target.history.source,
        facts=target.history.facts,
        extent=extent,
        on_batch=on_batch,
    )
    evidence = replace(evidence, unused=target.data.training_images - evidence.train.is_training_false.examples)
    check, fed = evidence.preprocessing, {}
    if check is not None and check.best is not None:
        shown = target.data.test().some(_SHOWN).at(_SHOWN)
        for name in (check.current, check.best):
            fed[name] = np.asarray(next(iter(shown.through(feeding(name)).batches()))[0])
    diagnosis = Diagnosis(target.name, evidence, judge(evidence, target.commands), fed)
    target.record(diagnosis.to_json())
    return diagnosis


def evaluate(
    target: Target,
    *,
    split: str = "test",
    statistics: Statistics = "moving",
    tta: str | None = None,
    on_batch: Callable[[], None] | None = None,
) -> list[Pass]:
    """Score a split of the target's images, also of a model without BatchNorm.

    With `tta` the result is [plain, averaged], as of `finetune.runs.model.examine_run`.
    """
    images = target.data.split(split)
    ways: list[tuple[Runnable, EvalSet]] = [(target.subject, images)]
    ways += [with_views(target.subject, images, tta)] if tta else []
    return [Evaluator(way, on_batch=on_batch).examine(given.batches(), statistics) for way, given in ways]


@dataclass(frozen=True)
class Recalibration:
    """Test accuracy with `is_training=False` before and after, and the new file."""

    before: Evaluation
    after: Evaluation
    images: int
    path: Path

    def to_json(self) -> dict[str, Any]:
        """For `recalibrate-bn --json`."""
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "images": self.images,
            "model": str(self.path),
        }


def recalibrate_bn(
    target: Target,
    *,
    out: Path | None = None,
    images: int = RECALIBRATION_IMAGES,
    on_batch: Callable[[], None] | None = None,
) -> Recalibration:
    """Write a copy of the model whose moving statistics are those of `images` training images.

    The copy goes beside the old model or to `out`; nothing is overwritten. Raises WrongUse where the new file exists,
    FinetuneError where recalibrating makes the model worse, because the network was trained around its old statistics.
    """
    if not target.subject.layers:
        raise FinetuneError(
            f"{target.name} has no BatchNormalization layer: there is nothing to recalibrate; use 'finetune evaluate' "
            "for its accuracy"
        )
    path = _require_free(out or target.copy, target.suffix)
    before, after, used, worse = measure_again(target, images=images, on_batch=on_batch)
    if worse:
        raise FinetuneError(
            f"recalibrating makes {target.name} worse ({before.accuracy:.1%} -> {after.accuracy:.1%} on test images): "
            "the network was trained around its old statistics. Nothing was written; for the cause: "
            f"{target.commands.diagnose()}"
        )
    target.write(path)
    return Recalibration(before, after, used, path)


def measure_again(
    target: Target, *, images: int, on_batch: Callable[[], None] | None = None
) -> tuple[Evaluation, Evaluation, int, bool]:
    """Give the subject the statistics of `images` training images: (test accuracy before, after, images used, whether
    they make it worse). The old ones are put back in that case, and after an error."""
    subject, before = target.subject, target.subject.snapshot()
    test, subset = target.data.test(), target.data.training(images)
    evaluator = Evaluator(subject, on_batch=on_batch)
    try:
        first = evaluator.evaluate(test.batches())
        recalibrate(subject, (batch for batch, _, _ in subset.batches()))
        after = evaluator.evaluate(test.batches())
    except BaseException:
        subject.restore(before)
        raise
    worse = better(first, after, least=0.005)
    if worse:
        subject.restore(before)
    return first, after, len(subset), worse


def _require_free(path: Path, suffix: str | None) -> Path:
    """`path` itself, if a file of that kind can be written there. WrongUse or FinetuneError if not."""
    if suffix is not None and not path.name.endswith(suffix):
        raise WrongUse(f"--out {path} must end in {suffix}, the format it is written in")
    if path.exists() or Path(f"{path}.index").exists():
        raise WrongUse(f"{path} is already there and is not overwritten: give another name with --out")
    if not path.absolute().parent.is_dir():
        raise WrongUse(f"--out {path}: there is no directory {path.parent}; make it, or give another name with --out")
    if not os.access(path.absolute().parent, os.W_OK):
        raise FinetuneError(f"no permission to write {path}: give another path with --out")
    return path
