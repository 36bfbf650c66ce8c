"""Evidence as measured, made by hand: a healthy run, and what the cases change in it."""

import dataclasses

from finetune.diagnosis.evidence import (
    BatchCheck,
    BNEvidence,
    Facts,
    LabelCheck,
    LayerDrift,
    ModeScores,
    PreprocessingCheck,
    Trial,
)
from finetune.diagnosis.rules.rule import Commands
from finetune.evaluation.evaluator import Evaluation
from finetune.evaluation.significance import Paired

NAME = "BatchNorm"
COMMANDS = Commands("runs/x", "finetune run --config runs/x/config.json")


def score(accuracy, loss=0.5, examples=1000):
    return Evaluation(examples, round(accuracy * examples), examples, loss * examples)


def ways(false, true, recalibrated, **kwargs):
    return ModeScores(score(false, **kwargs), score(true, **kwargs), score(recalibrated, **kwargs))


def changed(false, recalibrated, by, **kwargs):
    """False and True alike; recalibrated changes single images."""
    return dataclasses.replace(ways(false, false, recalibrated, **kwargs), by_true=Paired(0, 0), by_recalibrated=by)


def layer(shift=0.03, noise=0.02, initial=False, source=False, **kwargs):
    values = {
        "name": NAME,
        "values": 1e5,
        "log_variance_ratio": shift,
        "finite": True,
        "test_shift": 0.01,
        **kwargs,
    }
    return LayerDrift(mean_shift=shift, batch_noise=noise, at_initial=initial, at_source=source, **values)


def labels(accuracy=0.9, permuted=None, offset=0.05, train=None):
    permuted = accuracy if permuted is None else permuted
    train = permuted if train is None else train
    return LabelCheck(accuracy, 1, offset, permuted, 0 if permuted == accuracy else 10, accuracy, train)


def fed(best=None, test=0.1, train=0.1, current="inception"):
    trials = (Trial(current, 0.1, 1.0, 1.0), Trial("vgg", 0.2, 0.5, 0.5))
    return PreprocessingCheck(current, 256, trials, best, score(test), score(train))


def company(shuffled=0.88, grouped=0.5, moving=0.1):
    return BatchCheck({8: score(0.8)}, score(shuffled), score(grouped), score(moving))


RECORDS = Facts(decay=0.9, updates=500, updates_enabled=True, trained_with="batch", weights_moved=True, batch_size=64)
HEALTHY = BNEvidence(
    test=ways(0.90, 0.90, 0.90),
    train=ways(0.93, 0.93, 0.93),
    classes=10,
    layers=(layer(), layer()),
    facts=RECORDS,
    batch_size=64,
    labels=labels(),
)
BROKEN = {
    "test": ways(0.10, 0.88, 0.89),
    "train": ways(0.10, 0.93, 0.93),
    "preprocessing": fed(),
    "batches": company(),
    "layers": (layer(0.8),) * 2,
}
FAR = (layer(test_shift=0.6),) * 3


def facts(**changes):
    return dataclasses.replace(RECORDS, **changes)


UNKNOWN = Facts()
