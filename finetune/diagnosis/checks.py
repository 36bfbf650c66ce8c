"""Further checks of a diagnosis, on few images: other preprocessings, batch sizes and orders, a repair in part."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.batchnorm.statistics import Moments
from finetune.batchnorm.subject import Subject
from finetune.data.batches import EvalSet
from finetune.data.label_sets import strata
from finetune.data.preprocessing import (
    EXCHANGED,
    NEGATIVE,
    TRANSPOSED,
    changed,
    distinct,
    find_preprocessing,
    suspects,
    swapped,
)
from finetune.diagnosis import recovery, thresholds
from finetune.diagnosis.drift import drift
from finetune.diagnosis.evidence import BatchCheck, BNEvidence, PreprocessingCheck, ReadingCheck, Trial
from finetune.evaluation.evaluator import Evaluation, Evaluator, Pass
from finetune.evaluation.significance import Paired, compare_paired
from finetune.text import shape_of

SIZES = (1, 2, 8, 32, 128)
"""Batch sizes at which `is_training=True` is tried."""
_FIRST_LAYER = 32
"""Images for the statistics of the first layer's input: they give thousands of values a channel."""
_PROBED = 64
"""Images for the equations of a recovered preprocessing."""
_FINALISTS = 4
"""Preprocessings that are tried again on more images."""
_SORTED = 8
"""The fewest images in a batch of one class: with fewer, batch statistics are mostly noise, and calls are many."""
_PROMISING = 2.0
"""Standard errors by which another preprocessing must lead on few images to be tried on all."""


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


def compare(result: Pass, reference: Pass) -> Paired:
    """Two passes over the same images in the same order."""
    return compare_paired(result.images.outcomes, reference.images.outcomes)


def check_preprocessing(
    budget: CheckBudget, test: Pass, train: Pass, *, reach: float, usual: str | None = None
) -> PreprocessingCheck:
    """Try every known preprocessing on few images, and the best other one on all, if it looks better at all.

    Another scale or offset shows in statistics that disagree; where they agree, only what new statistics cannot mend is
    tried: swapped colours, black for white, height for width, photos cropped and resized in other ways, and the `usual`
    preprocessing that the network may have been trained with. All are tried on few images, the best of them on more.
    `test` and `train` are the passes over all images with `is_training=False` and the present preprocessing. `reach` is
    the accuracy that other statistics win on training images: a preprocessing that wins far less explains nothing, and
    is not worth two passes.
    """
    own, pixels = budget.train.preprocessing, budget.train.of_pixels
    exchanged = (NEGATIVE, TRANSPOSED) if budget.train.is_square else (NEGATIVE,)
    others: tuple[Any, ...] = suspects() if budget.generous else swapped(pixels)
    others = (*others, *(changed(pixels, one) for one in exchanged))
    proposed: list[recovery.Recovered] = []
    if usual is not None and usual not in {one.name for one in others}:
        others = (*others, find_preprocessing(usual))
    if budget.subject.takes_pixels or not budget.train.has_pixels:
        others = ()  # a graph that takes uint8 prepares its images itself, so there is one way to feed it
    elif budget.generous:
        proposed, more_others = _recovered(budget)
        others = (*others, *more_others)
    others = tuple(one for one in (*others, *budget.train.reframed()) if one.name != own.name)
    candidates = distinct((own, *others), shape_of(budget.train.image_size).channels)
    few = budget.train.some(budget.few(thresholds.TRIAL_SHARE, thresholds.FIRST_TRIAL))
    passes = {one.name: budget.inference(few.through(one)) for one in candidates}
    shifts = {one.name: _first_shift(budget, few.through(one)) for one in candidates}

    def gain(one: Any) -> float:
        return _gain(passes[one.name], passes[own.name])

    ranked = sorted(candidates[1:], key=lambda one: -gain(one))[:_FINALISTS]
    share = thresholds.TRIAL_SHARE * (3 if len(candidates) <= 3 else 1)  # few rivals get more images each
    more = budget.train.some(budget.few(share, thresholds.TRIAL_IMAGES))
    if len(more) > len(few):
        passes |= {one.name: budget.inference(more.through(one)) for one in (own, *ranked)}
        ranked.sort(key=lambda one: -gain(one))
    trials = tuple(
        Trial(name, one.evaluation.accuracy, *shifts[name], examples=one.evaluation.examples)
        for name, one in passes.items()
    )
    check = PreprocessingCheck(own.name, max(one.examples for one in trials), trials, recovered=tuple(proposed))
    best = _nearest([one for one in ranked if gain(one) >= gain(ranked[0]) - 1], trials)
    if best is None or not _promising(check, best.name, gain(best)):
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


def check_reading(budget: CheckBudget, test: Pass) -> ReadingCheck | None:
    """Try whether the test images alone have colours, black and white or height and width exchanged; None if not.

    Height and width leave no trace in the statistics of a channel, so only the accuracy shows them. `test` is the pass
    over all of them with `is_training=False`.
    """
    images, own = budget.test, budget.test.of_pixels
    if budget.subject.takes_pixels or not images.has_pixels:
        return None
    changes = [one for one in EXCHANGED if one != TRANSPOSED or images.is_square]
    _, *others = distinct((own, *(changed(own, one) for one in changes)), shape_of(images.image_size).channels)
    few = images.some(budget.few(3 * thresholds.TRIAL_SHARE, thresholds.TRIAL_IMAGES))
    reference = budget.inference(few)
    gains = {one.name: _gain(budget.inference(few.through(one)), reference) for one in others}
    best = max(others, key=lambda one: gains[one.name])
    if gains[best.name] < _PROMISING:
        return None
    whole = budget.inference(images.through(best))
    return ReadingCheck(best.name, whole.evaluation, compare(whole, test))


def _nearest(equals: list[Any], trials: tuple[Trial, ...]) -> Any:
    """Of preprocessings that do about equally well, best first, the one that the first layer's statistics fit best, and
    of those that fit alike the first; None of none.

    One in numbers must fit clearly better than every one that has a name.
    """
    sizes = {one.name: max(one.mean_shift, one.log_variance_ratio / 2) for one in trials}
    clearly = thresholds.DRIFTED / 2

    def misfit(one: Any) -> float:
        size = sizes[one.name] + clearly * ("=" in one.name)
        return size if np.isfinite(size) else np.inf  # statistics that are not finite fit nothing

    if not equals:
        return None
    best = min(equals, key=misfit)
    alike = [one for one in equals if misfit(one) <= misfit(best) + clearly and ("=" in one.name) == ("=" in best.name)]
    return alike[0]


def _recovered(budget: CheckBudget) -> tuple[list[recovery.Recovered], list[Any]]:
    """What the first layer's statistics suggest, the best fit first, and all preprocessings to try: these, and those of
    the training images' pixels. None where the first layer's statistics fit what it sees, or are still at their start
    and say nothing."""
    first, own = budget.subject.layers[0], budget.train.preprocessing
    moving = budget.subject.snapshot()[first.name]
    some = budget.train.some(max(_PROBED, budget.least))

    def measured(preprocessing: Any) -> tuple[np.ndarray, np.ndarray]:
        seen = budget.evaluator.examine(some.through(preprocessing).batches(), "batch").moments[0]
        return seen.mean, seen.variance

    at_start = np.all(moving[0] == first.initial[0]) and np.all(moving[1] == first.initial[1])
    shift, ratio = _first_shift(budget, budget.train.through(own))
    if at_start or not np.isfinite(moving).all() or max(shift, ratio / 2) < thresholds.DRIFTED:
        return [], []
    channels = shape_of(budget.train.image_size).channels
    proposed = recovery.propose(measured, moving, first.epsilon, channels)
    names = [*(one.name for one in proposed), *recovery.of_data(some.split.at(some.image_size, some.geometry))]
    return proposed, [find_preprocessing(name) for name in dict.fromkeys(names)]


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
    # Sorted images, in batches no larger than a class, share a batch with their own class only.
    classes = np.bincount(strata(some.split.labels))
    own = fixed or min(some.batch_size, max(int(np.median(classes[classes > 0])), _SORTED))
    return BatchCheck(
        sizes={
            size: evaluate(few.some(max(calls * size, budget.least)).at(size).batches(), "batch")
            for size in sizes
            if size <= len(few)
        },
        shuffled=evaluate(mixed.batches(), "batch"),
        grouped=evaluate(some.grouped().at(own).batches(), "batch"),
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
