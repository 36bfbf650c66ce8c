"""Measure a subject in three modes: with moving statistics, batch statistics, and statistics recalibrated on training
images.

Each mode makes one pass over test and one over training images. Further checks on few images are made where these
figures call for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from finetune.batchnorm.statistics import write_moving
from finetune.batchnorm.subject import Snapshot, Subject, kept
from finetune.data.batches import EvalSet
from finetune.diagnosis import thresholds
from finetune.diagnosis.checks import (
    CheckBudget,
    check_batches,
    check_preprocessing,
    check_reading,
    compare,
    repair_partly,
)
from finetune.diagnosis.drift import Pair, drift, initial, share_left
from finetune.diagnosis.evidence import BNEvidence, Facts, ModeScores, Origin, better
from finetune.diagnosis.labels import explain, least_loss
from finetune.diagnosis.rules.data_rules import wrong_preprocessing
from finetune.diagnosis.rules.rule import Commands, Reading
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import Evaluator, Pass
from finetune.evaluation.predictions import Predictions

Extent = Literal["quick", "default", "all"]
"""Which further checks: none, those the figures call for, every one."""


def examine(
    subject: Subject,
    *,
    test: EvalSet,
    train: EvalSet,
    source: Snapshot | None = None,
    facts: Facts | None = None,
    extent: Extent = "default",
    on_batch: Callable[[], None] | None = None,
) -> BNEvidence:
    """Examine `subject` on `test`, in the data's own order, and on a training subset.

    `train` must give its images in a random order: statistics of batches of one class cannot be pooled. `source` are
    the moving statistics training started from, for the layers where they are known. The subject is left as it was,
    also after Ctrl-C. Raises FinetuneError where it has no BatchNorm.
    """
    if not subject.layers:
        raise FinetuneError(
            f"the model '{subject.name}' has no BatchNormalization layer: there is nothing for diagnose-bn to examine; "
            "use 'finetune evaluate' for its accuracy"
        )
    evaluator = Evaluator(subject, on_batch=on_batch)
    with kept(subject):
        tested, trained = score_modes(evaluator, subject, test, train)
        evidence = _evidence(subject, tested, trained, source)
        evidence = replace(evidence, facts=facts or Facts(), batch_size=min(train.batch_size, len(train)))
        thorough = extent == "all"
        generous = thorough or suspicious(evidence)
        budget = CheckBudget(evaluator, subject, test, train, generous=generous, thorough=thorough)
        if extent != "quick":
            evidence = further_checks(evidence, budget, tested, trained)
    return evidence


@dataclass(frozen=True, eq=False)
class ModePasses:
    """One pass over the same images in each mode. The pass with batch statistics also pools them."""

    moving: Pass
    batch: Pass
    recalibrated: Pass

    @property
    def scores(self) -> ModeScores:
        """The counts of each pass, compared image by image with the first."""
        return ModeScores(
            self.moving.evaluation,
            self.batch.evaluation,
            self.recalibrated.evaluation,
            by_true=compare(self.batch, self.moving),
            by_recalibrated=compare(self.recalibrated, self.moving),
        )


def score_modes(evaluator: Evaluator, subject: Subject, test: EvalSet, train: EvalSet) -> tuple[ModePasses, ModePasses]:
    """Score test and training images in each mode. The moving statistics are afterwards what they were."""
    before = subject.snapshot()
    moving = [evaluator.examine(images.batches(), "moving") for images in (test, train)]
    batch = [evaluator.examine(images.batches(), "batch") for images in (test, train)]
    write_moving(subject, batch[1].moments)
    recalibrated = [evaluator.examine(images.batches(), "moving") for images in (test, train)]
    subject.restore(before)
    tested, trained = (ModePasses(*passes) for passes in zip(moving, batch, recalibrated, strict=True))
    return tested, trained


def _evidence(subject: Subject, tested: ModePasses, trained: ModePasses, source: Snapshot | None) -> BNEvidence:
    """What the six passes show."""
    layers, moving, pooled = subject.layers, subject.snapshot(), trained.batch.moments
    now, known = [moving[layer.name] for layer in layers], [(source or {}).get(layer.name) for layer in layers]
    starts: tuple[tuple[Origin, Sequence[Pair | None]], ...] = (
        ("initial", [*map(initial, layers, now)]),
        ("source", known),
    )
    shares = (share_left(origin, layers, now, pooled, start) for origin, start in starts)
    predicted = [
        [
            one.images
            for one in (passes.moving, passes.batch, passes.recalibrated)
            if isinstance(one.images, Predictions)
        ]
        for passes in (tested, trained)
    ]
    test, train = ([(one.labels, one.classes) for one in images] for images in predicted)
    return BNEvidence(
        test=tested.scores,
        train=trained.scores,
        classes=subject.outputs,
        per_label=subject.per_label or tested.moving.evaluation.multi_label,
        layers=tuple(
            drift(layer, pair, data, test=seen, source=start)
            for layer, pair, data, seen, start in zip(layers, now, pooled, tested.batch.moments, known, strict=True)
        ),
        shares=tuple(share for share in shares if share is not None),
        labels=explain(test, train, subject.outputs, loss=least_loss([*predicted[0], *predicted[1]], subject.outputs))
        if test
        else None,
    )


def suspicious(evidence: BNEvidence) -> bool:
    """Whether other statistics than the moving ones do better on any images, or the moving ones are not finite.

    Where the moving statistics do best, nothing needs explaining.
    """
    every = (evidence.test, evidence.train, evidence.together)
    helped = any(scores.true_helps or scores.recalibrating_helps for scores in every)
    return helped or not all(layer.finite for layer in evidence.layers)


def further_checks(evidence: BNEvidence, budget: CheckBudget, tested: ModePasses, trained: ModePasses) -> BNEvidence:
    """Make the checks whose outcome could change the verdict, or all where the budget is thorough."""
    doubtful, train = suspicious(evidence), evidence.train.is_training_false
    if budget.thorough or doubtful or train.accuracy < thresholds.GOOD_ON_TRAINING:
        reach, usual = evidence.train.within_reach, evidence.facts.usual_preprocessing
        check = check_preprocessing(budget, tested.moving, trained.moving, reach=reach, usual=usual)
        evidence = replace(evidence, preprocessing=check)
    if budget.thorough or better(train, evidence.test.is_training_false, thresholds.OVERFITTED):
        evidence = replace(evidence, reading=check_reading(budget, tested.moving))
    if budget.thorough or doubtful:
        evidence = replace(evidence, partly_repaired=repair_partly(budget, evidence, trained.batch.moments))
    fed_wrongly = wrong_preprocessing(Reading(evidence, Commands(""))) is not None
    undertrained = not train.loss <= thresholds.UNDERTRAINED * evidence.chance_loss
    if budget.thorough or (not fed_wrongly and (doubtful or undertrained)):
        evidence = replace(evidence, batches=check_batches(budget))
    return evidence
