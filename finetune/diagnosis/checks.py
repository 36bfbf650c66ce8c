"""Further checks on few images, made where the figures call for them."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.batchnorm.subject import Snapshot, Subject
from finetune.data.preprocessing import suspects, swapped
from finetune.diagnosis import thresholds
from finetune.diagnosis.drift import drift
from finetune.diagnosis.evidence import BatchCheck, BNEvidence, Change, PreprocessingCheck, Trial
from finetune.diagnosis.figures import recalibrating_helps, true_helps
from finetune.diagnosis.images import Images
from finetune.evaluation import Evaluation, Evaluator, Pass

ALL = frozenset({"preprocessing", "batches", "partial"})
SIZES = (1, 2, 8, 32, 128)
"""Batch sizes at which `is_training=True` is tried."""
_FIRST_LAYER = 64
"""Images that tell what the first layer sees: thousands of values a channel."""
_PROMISING = 2.0
"""Standard errors by which another preprocessing must lead on few images to be tried on all."""


@dataclass(frozen=True, eq=False)
class Room:
    """What the checks work on. `generous`: a few hundred images each, else what keeps a diagnosis cheap."""

    evaluator: Evaluator
    subject: Subject
    test: Images
    train: Images
    generous: bool

    @property
    def trial_images(self) -> int:
        """Images for one trial: where nothing is suspicious, what costs a small part of what was already spent."""
        spent = 3 * (len(self.test) + len(self.train))
        few = int(max(thresholds.TRIAL_SHARE * spent, 16))
        return max(thresholds.TRIAL_IMAGES if self.generous else min(few, thresholds.TRIAL_IMAGES), self.least)

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


def preprocessing(room: Room, test: Pass, train: Pass) -> PreprocessingCheck:
    """Try every known way to feed pixels; the best other one again on all images, if it looks better at all.

    Another scale or offset shows in statistics that disagree. Where they agree, only swapped colours are tried.
    `test` and `train` are the passes over all images with `is_training=False` as they are fed now.
    """
    few = room.train.some(room.trial_images)
    own = room.train.preprocessing
    first, moving = room.subject.layers[0], room.subject.snapshot()
    trials, best, most = [], None, 0.0
    base = room.evaluator.examine(few.batches(), "moving")
    others: tuple[Any, ...] = suspects() if room.generous else swapped(own)
    if getattr(room.subject, "takes_pixels", False):
        others = ()  # a graph that takes uint8 prepares them itself: there is one way to feed it
    for suspect in (own, *(one for one in others if one.name != own.name)):
        images = few.through(suspect)
        scored = base if suspect is own else room.evaluator.examine(images.batches(), "moving")
        seen = room.evaluator.examine(images.some(max(_FIRST_LAYER, room.least)).batches(), "batch").moments[0]
        layer = drift(first, moving[first.name], seen)
        trials.append(Trial(suspect.name, scored.evaluation.accuracy, layer.mean_shift, layer.log_variance_ratio))
        by = change(base, scored)
        # In standard errors: an image or two more, of few, are not worth two passes over all.
        gain = (by.gained - by.lost) / np.sqrt(max(by.gained + by.lost, 1))
        if gain > most:
            best, most = suspect, gain
    check = PreprocessingCheck(own.name, len(few), tuple(trials))
    if best is None or most < _PROMISING:
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


def batches(room: Room) -> BatchCheck:
    """`is_training=True` by order and, where there is reason to look closely, by batch size."""
    fixed = getattr(room.subject, "batch_size", None)
    some = room.test.some(thresholds.ORDER_IMAGES if room.generous else room.trial_images)
    mixed = some.shuffled()
    few = mixed.some(room.trial_images)
    sizes: tuple[int, ...] = () if not room.generous else SIZES if fixed is None else (fixed,)
    return BatchCheck(
        sizes={size: room.evaluator.evaluate(few.at(size).batches(), "batch") for size in sizes if size <= len(few)},
        shuffled=room.evaluator.evaluate(mixed.batches(), "batch"),
        grouped=room.evaluator.evaluate(some.grouped().batches(), "batch"),
        moving=room.evaluator.evaluate(mixed.batches(), "moving"),
    )


def partly(room: Room, moving: Snapshot, recalibrated: Snapshot, layers: Collection[str]) -> Evaluation | None:
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
