"""Further checks on few images, made where the figures call for them."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.batchnorm.subject import Snapshot, Subject
from finetune.data.evalset import EvalSet
from finetune.data.preprocessing import suspects, swapped
from finetune.diagnosis import thresholds
from finetune.diagnosis.drift import drift
from finetune.diagnosis.evidence import BatchCheck, BNEvidence, Change, PreprocessingCheck, Trial
from finetune.diagnosis.gaps import recalibrating_helps, true_helps
from finetune.evaluation.evaluator import Evaluation, Evaluator, Pass

ALL = frozenset({"preprocessing", "batches", "partial"})
SIZES = (1, 2, 8, 32, 128)
"""Batch sizes at which `is_training=True` is tried."""
_FIRST_LAYER = 32
"""Images that tell what the first layer sees: thousands of values a channel."""
_FINALISTS = 4
"""Ways to feed pixels that are tried again on more images."""
_PROMISING = 2.0
"""Standard errors by which another preprocessing must lead on few images to be tried on all."""


@dataclass(frozen=True, eq=False)
class CheckBudget:
    """What the checks work on. `generous`: enough images each to tell, else what keeps a diagnosis cheap; `thorough`:
    as many as are of any use."""

    evaluator: Evaluator
    subject: Subject
    test: EvalSet
    train: EvalSet
    generous: bool
    thorough: bool = False

    @property
    def spent(self) -> int:
        """Images the evaluations have looked at."""
        return 3 * (len(self.test) + len(self.train))

    def few(self, share: float, most: int) -> int:
        """How many images a check takes: so that its cost is a small share of what was spent, and at most `most`.

        Where every check was asked for, or a tenth of the usual number would be left, the cost does not count.
        """
        fewest = most // 4 if self.generous else min(most // 16, 16)
        return max(most if self.thorough else min(max(int(share * self.spent), fewest), most), self.least)

    @property
    def least(self) -> int:
        """Images that the subject takes at once, 1 where it takes any number: a TF1 graph may be written for one."""
        return getattr(self.subject, "batch_size", None) or 1


def suspicious(evidence: BNEvidence) -> bool:
    """Whether other statistics than the moving ones do better on any images, or these are not finite. Where the moving
    ones do best, there is nothing to look into: that is what they are for."""
    apart = any(helps(ways) for ways in (evidence.test, evidence.train) for helps in (true_helps, recalibrating_helps))
    return apart or not all(layer.finite for layer in evidence.layers)


def called_for(evidence: BNEvidence) -> Collection[str]:
    """The checks whose outcome could change the verdict."""
    found = set()
    doubtful, train = suspicious(evidence), evidence.train.is_training_false
    if doubtful or train.accuracy < thresholds.GOOD_ON_TRAINING:
        found.add("preprocessing")
    if doubtful or not train.loss <= thresholds.UNDERTRAINED * math.log(evidence.classes):
        found.add("batches")
    if doubtful and 0 < sum(layer.at_initial for layer in evidence.layers) < len(evidence.layers):
        found.add("partial")
    return frozenset(found)


def change(before: Pass, after: Pass) -> Change:
    """From one pass to another over the same images in the same order."""
    return Change(
        gained=int(np.sum(after.correct & ~before.correct)), lost=int(np.sum(before.correct & ~after.correct))
    )


def preprocessing(room: CheckBudget, test: Pass, train: Pass, *, reach: float) -> PreprocessingCheck:
    """Try every known way to feed pixels; the best other one again on all images, if it looks better at all.

    Another scale or offset shows in statistics that disagree. Where they agree, only swapped colours are tried.
    All are tried on few images, the best of them again on more. `test` and `train` are the passes over all images with
    `is_training=False` as they are fed now; `reach` is the accuracy that other statistics win on training images: what
    wins far less is no explanation, and not worth two passes.
    """
    own = room.train.preprocessing
    others: tuple[Any, ...] = suspects() if room.generous else swapped(own)
    if getattr(room.subject, "takes_pixels", False):
        others = ()  # a graph that takes uint8 prepares them itself: there is one way to feed it
    ways = (own, *(one for one in others if one.name != own.name))
    few = room.train.some(room.few(thresholds.TRIAL_SHARE, thresholds.FIRST_TRIAL))
    trials, tried = [], {}
    first, moving = room.subject.layers[0], room.subject.snapshot()
    for way in ways:
        images = few.through(way)
        scored = room.evaluator.examine(images.batches(), "moving")
        seen = room.evaluator.examine(images.some(max(_FIRST_LAYER, room.least)).batches(), "batch").moments[0]
        layer = drift(first, moving[first.name], seen)
        tried[way.name] = scored
        trials.append(Trial(way.name, scored.evaluation.accuracy, layer.mean_shift, layer.log_variance_ratio, len(few)))
    share = thresholds.TRIAL_SHARE * (3 if len(ways) == 2 else 1)  # where there is but one rival, it gets more images
    more = room.train.some(room.few(share, thresholds.TRIAL_IMAGES))
    ranked = sorted(ways[1:], key=lambda way: -_gain(tried[own.name], tried[way.name]))[:_FINALISTS]
    best, most = None, 0.0
    if len(more) > len(few):
        tried = {way.name: room.evaluator.examine(more.through(way).batches(), "moving") for way in (own, *ranked)}
    for way in ranked:
        gain = _gain(tried[own.name], tried[way.name])
        if gain > most:
            best, most = way, gain
    again = {name: (scored.evaluation.accuracy, scored.evaluation.examples) for name, scored in tried.items()}
    trials = [
        replace(one, accuracy=again[one.name][0], examples=again[one.name][1]) if one.name in again else one
        for one in trials
    ]
    check = PreprocessingCheck(own.name, max(one.examples for one in trials), tuple(trials))
    fits = {one.name: max(one.mean_shift, one.log_variance_ratio / 2) for one in trials}
    # A weak model's accuracy on few images tells little; pixels on another scale show in the first layer all the same.
    shown = best is not None and fits[own.name] > thresholds.MISFED and fits[best.name] < thresholds.FED
    if best is None or not (most >= _PROMISING or shown):
        return check
    won = tried[best.name].evaluation.accuracy - tried[own.name].evaluation.accuracy
    if won < thresholds.REPAIRED * reach / 2 and not room.thorough:
        return check
    tested = room.evaluator.examine(room.test.through(best).batches(), "moving")
    trained = room.evaluator.examine(room.train.through(best).batches(), "moving")
    return replace(
        check,
        best=best.name,
        test=tested.evaluation,
        train=trained.evaluation,
        by_test=change(test, tested),
        by_train=change(train, trained),
    )


def _gain(before: Pass, after: Pass) -> float:
    """In standard errors: an image or two more, of few, are not worth two passes over all."""
    by = change(before, after)
    return float((by.gained - by.lost) / np.sqrt(max(by.gained + by.lost, 1)))


def batches(room: CheckBudget) -> BatchCheck:
    """`is_training=True` by order and, where there is reason to look closely, by batch size."""
    fixed = getattr(room.subject, "batch_size", None)
    some = room.test.some(room.few(thresholds.ORDER_SHARE, thresholds.ORDER_IMAGES))
    mixed = some.shuffled()
    few = mixed.some(max(room.few(thresholds.TRIAL_SHARE, thresholds.TRIAL_IMAGES), max(SIZES)))
    sizes: tuple[int, ...] = () if not room.generous else SIZES if fixed is None else (fixed,)
    calls = thresholds.TRIAL_IMAGES if room.thorough else min(thresholds.SMALL_BATCHES, len(few) // 2)
    return BatchCheck(
        sizes={
            size: room.evaluator.evaluate(few.some(max(calls * size, room.least)).at(size).batches(), "batch")
            for size in sizes
            if size <= len(few)
        },
        shuffled=room.evaluator.evaluate(mixed.batches(), "batch"),
        grouped=room.evaluator.evaluate(some.grouped().batches(), "batch"),
        moving=room.evaluator.evaluate(mixed.batches(), "moving"),
    )


def partly(room: CheckBudget, moving: Snapshot, recalibrated: Snapshot, layers: Collection[str]) -> Evaluation | None:
    """Test images when only `layers` get recalibrated statistics; None where that would be all of them or none."""
    if not 0 < len(layers) < len(moving):
        return None
    mixed = {name: recalibrated[name] if name in layers else moving[name] for name in moving}
    room.subject.restore(
        {name: (pair[0].astype(np.float32), pair[1].astype(np.float32)) for name, pair in mixed.items()}
    )
    scored = room.evaluator.evaluate(room.test.batches(), "moving")
    room.subject.restore(moving)
    return scored
