"""Rules about training as such, where BatchNorm is not to blame, and the absence of any finding."""

import math

from finetune.diagnosis import thresholds
from finetune.diagnosis.gaps import better, percent, recalibrating_hurts
from finetune.diagnosis.rules.rule import Finding, Reading


def undertrained(seen: Reading) -> Finding | None:
    """The network does badly on its training images too."""
    train = seen.evidence.train.is_training_false
    if train.loss <= thresholds.UNDERTRAINED * math.log(seen.evidence.classes):
        return None
    return Finding(
        "not-batchnorm: undertrained",
        f"BatchNorm is not to blame: {_agreement(seen)}, and training images are no better ({percent(train)}).",
        seen.commands.train("--epochs", "20", why="more epochs than before, or another --learning-rate"),
    )


def overfitting(seen: Reading) -> Finding | None:
    """The gap between training and test images is there with every kind of statistics."""
    train, test = seen.evidence.train.is_training_false, seen.evidence.test.is_training_false
    if not better(train, test, thresholds.OVERFITTED):
        return None
    return Finding(
        "not-batchnorm: overfitting",
        f"BatchNorm is not to blame: {_agreement(seen)}; the gap to the training images ({percent(train)}) is there "
        "with every kind of statistics.",
        seen.commands.train("--augment", "crop-flip", "--patience", "3", why="or more images, or --freeze-until STAGE"),
    )


def healthy(seen: Reading) -> Finding:
    """Nothing else applies."""
    return Finding("healthy", f"BatchNorm is healthy: {_agreement(seen)}.", None)


def _agreement(seen: Reading) -> str:
    test = seen.evidence.test
    figures = f"({percent(test.is_training_false)} and {percent(test.recalibrated)})"
    if recalibrating_hurts(test):
        return f"on test images the moving statistics do better than recalibrated ones {figures}"
    return f"moving and recalibrated statistics agree on test images {figures}"
