"""Further checks on few images, made where the figures call for them."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from finetune.batchnorm.subject import Snapshot, Subject
from finetune.data.preprocessing import suspects
from finetune.diagnosis import thresholds
from finetune.diagnosis.drift import drift
from finetune.diagnosis.evidence import BatchCheck, BNEvidence, PreprocessingCheck, Trial
from finetune.diagnosis.figures import better, far_less_wrong
from finetune.diagnosis.images import Images
from finetune.evaluation import Evaluation, Evaluator, Pass

ALL = frozenset({"preprocessing", "batches", "partial"})
SIZES = (1, 2, 8, 32, 128)
"""Batch sizes at which `is_training=True` is tried."""


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
        """Images for one trial of many."""
        if self.generous:
            return thresholds.TRIAL_IMAGES
        # All trials together cost at most a quarter of what was already spent.
        spent = 3 * (len(self.test) + len(self.train))
        return int(min(max(spent / 4 / len(suspects()), 32), thresholds.TRIAL_IMAGES))


def suspicious(evidence: BNEvidence) -> bool:
    """Whether any two kinds of statistics disagree on any images, or are not finite."""
    ways = [
        (split.is_training_false, other)
        for split in (evidence.test, evidence.train)
        for other in (split.is_training_true, split.recalibrated)
    ]
    apart = any(better(a, b) or better(b, a) or far_less_wrong(b, a) for a, b in ways)
    return apart or not all(layer.finite for layer in evidence.layers)


def called_for(evidence: BNEvidence) -> Collection[str]:
    """The checks whose outcome could change the verdict."""
    found = set()
    doubtful = suspicious(evidence)
    if doubtful or evidence.train.is_training_false.accuracy < thresholds.GOOD_ON_TRAINING:
        found.add("preprocessing")
    if doubtful:
        found.add("batches")
        if 0 < sum(layer.at_initial for layer in evidence.layers) < len(evidence.layers):
            found.add("partial")
    return frozenset(found)


def preprocessing(room: Room, current: Pass) -> PreprocessingCheck:
    """Try every known way to feed pixels; the best other one again on all images, if it looks better at all.

    `current` is the pass over all of `room.train` with `is_training=False` as the images are fed now.
    """
    few = room.train.some(room.trial_images)
    own = room.train.preprocessing
    first, moving = room.subject.layers[0], room.subject.snapshot()
    trials, best, gained = [], None, 0
    base = room.evaluator.examine(few.batches(), "moving")
    for suspect in (own, *(one for one in suspects() if one.name != own.name)):
        images = few.through(suspect)
        scored = base if suspect is own else room.evaluator.examine(images.batches(), "moving")
        seen = room.evaluator.examine(images.some(few.batch_size).batches(), "batch").moments[0]
        layer = drift(first, moving[first.name], seen)
        trials.append(Trial(suspect.name, scored.evaluation.accuracy, layer.mean_shift, layer.log_variance_ratio))
        gain = scored.evaluation.correct - base.evaluation.correct
        if gain > gained:
            best, gained = suspect, gain
    check = PreprocessingCheck(own.name, len(few), tuple(trials))
    if best is None or gained < max(2.0, np.sqrt(gained)):
        return check
    test = room.evaluator.evaluate(room.test.through(best).batches(), "moving")
    train = room.evaluator.evaluate(room.train.through(best).batches(), "moving")
    return replace(check, best=best.name, test=test, train=train)


def batches(room: Room) -> BatchCheck:
    """`is_training=True` by batch size and by order."""
    fixed = getattr(room.subject, "batch_size", None)
    some = room.test.some(thresholds.ORDER_IMAGES if room.generous else room.trial_images)
    mixed = some.shuffled()
    few = mixed.some(room.trial_images)
    sizes = SIZES if fixed is None else (fixed,)
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
