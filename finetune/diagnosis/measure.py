"""Measure a subject in three modes: with moving statistics, batch statistics, and statistics recalibrated on training
images.

Each mode makes one pass over test and one over training images. Further checks on few images are made where these
figures call for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from finetune.batchnorm.statistics import Moments, write_moving
from finetune.batchnorm.subject import Snapshot, Subject, kept
from finetune.data.batches import EvalSet
from finetune.data.preprocessing import find_preprocessing, suspects, swapped
from finetune.diagnosis import thresholds
from finetune.diagnosis.drift import Pair, drift, initial, share_left
from finetune.diagnosis.evidence import BatchCheck, BNEvidence, Facts, ModeScores, Origin, PreprocessingCheck, Trial
from finetune.diagnosis.labels import explain
from finetune.diagnosis.rules.data_rules import wrong_preprocessing
from finetune.diagnosis.rules.rule import Commands, Reading
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import Evaluation, Evaluator, Pass
from finetune.evaluation.significance import Paired, compare_paired

Extent = Literal["quick", "default", "all"]
"""Which further checks: none, those the figures call for, every one."""
SIZES = (1, 2, 8, 32, 128)
"""Batch sizes at which `is_training=True` is tried."""
_FIRST_LAYER = 32
"""Images for the statistics of the first layer's input: they give thousands of values a channel."""
_FINALISTS = 4
"""Preprocessings that are tried again on more images."""
_PROMISING = 2.0
"""Standard errors by which another preprocessing must lead on few images to be tried on all."""


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
    test, train = (
        [(one.images.labels, one.images.classes) for one in (passes.moving, passes.batch, passes.recalibrated)]
        for passes in (tested, trained)
    )
    return BNEvidence(
        test=tested.scores,
        train=trained.scores,
        classes=subject.outputs,
        per_label=subject.per_label,
        layers=tuple(
            drift(layer, pair, data, test=seen, source=start)
            for layer, pair, data, seen, start in zip(layers, now, pooled, tested.batch.moments, known, strict=True)
        ),
        shares=tuple(share for share in shares if share is not None),
        labels=explain(test, train, subject.outputs),
    )


@dataclass(frozen=True, eq=False)
class CheckBudget:
    """The subject, the images and the cost of the checks.

    generous: each check takes enough images for a clear answer; else it keeps the diagnosis cheap. thorough: each takes
    as many as are of any use.
    """

    evaluator: Evaluator
    subject: Subject
    test: EvalSet
    train: EvalSet
    generous: bool
    thorough: bool = False

    def few(self, share: float, most: int) -> int:
        """How many images a check takes: `share` of the images already evaluated, and at most `most`.

        Where every check was asked for, or less than a tenth of the usual number would remain, the cost does not count.
        """
        evaluated = 3 * (len(self.test) + len(self.train))
        fewest = most // 4 if self.generous else min(most // 16, 16)
        return max(most if self.thorough else min(max(int(share * evaluated), fewest), most), self.least)

    @property
    def least(self) -> int:
        """Images that the subject takes at once, 1 where it takes any number: a TF1 graph may be written for one."""
        return self.subject.batch_size or 1

    def inference(self, images: EvalSet) -> Pass:
        """One pass with `is_training=False`."""
        return self.evaluator.examine(images.batches(), "moving")


def suspicious(evidence: BNEvidence) -> bool:
    """Whether other statistics than the moving ones do better on any images, or the moving ones are not finite.

    Where the moving statistics do best, nothing needs explaining.
    """
    helped = any(scores.true_helps or scores.recalibrating_helps for scores in (evidence.test, evidence.train))
    return helped or not all(layer.finite for layer in evidence.layers)


def further_checks(evidence: BNEvidence, budget: CheckBudget, tested: ModePasses, trained: ModePasses) -> BNEvidence:
    """Make the checks whose outcome could change the verdict, or all where the budget is thorough."""
    doubtful, train = suspicious(evidence), evidence.train.is_training_false
    if budget.thorough or doubtful or train.accuracy < thresholds.GOOD_ON_TRAINING:
        reach, usual = evidence.train.within_reach, evidence.facts.usual_preprocessing
        check = check_preprocessing(budget, tested.moving, trained.moving, reach=reach, usual=usual)
        evidence = replace(evidence, preprocessing=check)
    if budget.thorough or doubtful:
        evidence = replace(evidence, partly_repaired=repair_partly(budget, evidence, trained.batch.moments))
    fed_wrongly = wrong_preprocessing(Reading(evidence, Commands(""))) is not None
    undertrained = not train.loss <= thresholds.UNDERTRAINED * evidence.chance_loss
    if budget.thorough or (not fed_wrongly and (doubtful or undertrained)):
        evidence = replace(evidence, batches=check_batches(budget))
    return evidence


def compare(result: Pass, reference: Pass) -> Paired:
    """Two passes over the same images in the same order."""
    return compare_paired(result.images.correct, reference.images.correct)


def check_preprocessing(
    budget: CheckBudget, test: Pass, train: Pass, *, reach: float, usual: str | None = None
) -> PreprocessingCheck:
    """Try every known preprocessing on few images, and the best other one on all, if it looks better at all.

    Another scale or offset shows in statistics that disagree; where they agree, only swapped colours are tried, and the
    `usual` preprocessing that the network may have been trained with. All are
    tried on few images, the best of them again on more. `test` and `train` are the passes over all images with
    `is_training=False` and the present preprocessing. `reach` is the accuracy that other statistics win on training
    images: a preprocessing that wins far less explains nothing, and is not worth two passes.
    """
    own = budget.train.preprocessing
    others: tuple[Any, ...] = suspects() if budget.generous else swapped(own)
    if usual is not None and usual not in {one.name for one in others}:
        others = (*others, find_preprocessing(usual))
    if budget.subject.takes_pixels:
        others = ()  # a graph that takes uint8 prepares its images itself, so there is one way to feed it
    candidates = (own, *(one for one in others if one.name != own.name))
    few = budget.train.some(budget.few(thresholds.TRIAL_SHARE, thresholds.FIRST_TRIAL))
    passes = {one.name: budget.inference(few.through(one)) for one in candidates}
    shifts = {one.name: _first_shift(budget, few.through(one)) for one in candidates}
    ranked = sorted(candidates[1:], key=lambda one: -_gain(passes[one.name], passes[own.name]))[:_FINALISTS]
    share = thresholds.TRIAL_SHARE * (3 if len(candidates) == 2 else 1)  # a single rival gets more images
    more = budget.train.some(budget.few(share, thresholds.TRIAL_IMAGES))
    if len(more) > len(few):
        passes |= {one.name: budget.inference(more.through(one)) for one in (own, *ranked)}
    trials = tuple(
        Trial(name, one.evaluation.accuracy, *shifts[name], examples=one.evaluation.examples)
        for name, one in passes.items()
    )
    check = PreprocessingCheck(own.name, max(one.examples for one in trials), trials)
    best = max(ranked, key=lambda one: _gain(passes[one.name], passes[own.name]), default=None)
    if best is None or not _promising(check, best.name, _gain(passes[best.name], passes[own.name])):
        return check
    won = passes[best.name].evaluation.accuracy - passes[own.name].evaluation.accuracy
    if won < thresholds.REPAIRED * reach / 2 and not budget.thorough:
        return check
    tested, trained = budget.inference(budget.test.through(best)), budget.inference(budget.train.through(best))
    return replace(
        check,
        best=best.name,
        test=tested.evaluation,
        train=trained.evaluation,
        by_test=compare(tested, test),
        by_train=compare(trained, train),
    )


def _first_shift(budget: CheckBudget, images: EvalSet) -> tuple[float, float]:
    """(mean shift, log variance ratio) of the first BN layer's moving statistics from what it sees on these images."""
    first = budget.subject.layers[0]
    some = images.some(max(_FIRST_LAYER, budget.least))
    seen = budget.evaluator.examine(some.batches(), "batch").moments[0]
    layer = drift(first, budget.subject.snapshot()[first.name], seen)
    return layer.mean_shift, layer.log_variance_ratio


def _gain(result: Pass, reference: Pass) -> float:
    """In standard errors: an image or two more, of few, are not worth two passes over all."""
    by = compare(result, reference)
    return (by.gained - by.lost) / max(by.standard_error, 1.0)


def _promising(check: PreprocessingCheck, best: str, gain: float) -> bool:
    """Whether another preprocessing wins enough on few images to be tried on all.

    A weak model's accuracy on few images shows little. Pixels on another scale still show in the first layer.
    """
    fits = {one.name: max(one.mean_shift, one.log_variance_ratio / 2) for one in check.trials}
    shown = fits[check.current] > thresholds.MISFED and fits[best] < thresholds.FED
    return gain >= _PROMISING or (gain > 0 and shown)


def check_batches(budget: CheckBudget) -> BatchCheck:
    """`is_training=True` by the order of images and, where the budget is generous, by batch size."""
    fixed = budget.subject.batch_size
    some = budget.test.some(budget.few(thresholds.ORDER_SHARE, thresholds.ORDER_IMAGES))
    mixed = some.shuffled()
    few = mixed.some(max(budget.few(thresholds.TRIAL_SHARE, thresholds.TRIAL_IMAGES), max(SIZES)))
    sizes: tuple[int, ...] = () if not budget.generous else SIZES if fixed is None else (fixed,)
    calls = thresholds.TRIAL_IMAGES if budget.thorough else min(thresholds.SMALL_BATCHES, len(few) // 2)
    evaluate = budget.evaluator.evaluate
    return BatchCheck(
        sizes={
            size: evaluate(few.some(max(calls * size, budget.least)).at(size).batches(), "batch")
            for size in sizes
            if size <= len(few)
        },
        shuffled=evaluate(mixed.batches(), "batch"),
        grouped=evaluate(some.grouped().batches(), "batch"),
        moving=evaluate(mixed.batches(), "moving"),
    )


def repair_partly(budget: CheckBudget, evidence: BNEvidence, pooled: list[Moments]) -> Evaluation | None:
    """Score test images when only the layers at 0 and 1 get `pooled` statistics; None if all layers are, or none."""
    moving = budget.subject.snapshot()
    repaired = {
        layer.name: (data.mean.astype(np.float32), data.variance.astype(np.float32))
        for layer, seen, data in zip(budget.subject.layers, evidence.layers, pooled, strict=True)
        if seen.at_initial
    }
    if not 0 < len(repaired) < len(moving):
        return None
    budget.subject.restore({**moving, **repaired})
    scored = budget.evaluator.evaluate(budget.test.batches(), "moving")
    budget.subject.restore(moving)
    return scored
