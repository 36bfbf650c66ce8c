"""The reading of evidence, without a model: one table of cases."""

import dataclasses

import pytest

from finetune.diagnosis.evidence import BNEvidence, LayerDrift, ThreeWays
from finetune.diagnosis.verdict import judge
from finetune.evaluation import Evaluation


def score(accuracy, loss=0.5, examples=1000):
    return Evaluation(examples, round(accuracy * examples), examples, loss * examples)


def ways(false, true, recalibrated, **kwargs):
    return ThreeWays(score(false, **kwargs), score(true, **kwargs), score(recalibrated, **kwargs))


def layer(initial=False, source=False, finite=True):
    return LayerDrift("block1/BatchNorm", 1e5, 0.5, 0.5, initial, source, finite)


HEALTHY = BNEvidence(
    test=ways(0.90, 0.90, 0.90),
    train=ways(0.93, 0.93, 0.93),
    classes=10,
    layers=(layer(), layer()),
    decay=0.9,
    updates=500,
    updates_enabled=True,
    trained_with="batch",
    weights_moved=True,
)
BROKEN = {"test": ways(0.10, 0.88, 0.89), "train": ways(0.10, 0.93, 0.93)}
CASES = {
    "healthy": {},
    "healthy: BN frozen on purpose, batch statistics worse": {
        "test": ways(0.90, 0.70, 0.72),
        "layers": (layer(source=True),),
        "trained_with": "moving",
    },
    "healthy: within the noise of 100 images": {
        "test": ways(0.80, 0.86, 0.87, examples=100),
        "train": ways(0.82, 0.86, 0.87),
    },
    "updates-never-ran": {**BROKEN, "layers": (layer(initial=True),) * 2, "updates": 0},
    "updates-never-ran-since-source": {**BROKEN, "layers": (layer(source=True),) * 2, "updates": 0},
    "frozen-statistics-trained-weights": {
        **BROKEN,
        "layers": (layer(source=True),) * 2,
        "trained_with": "moving",
    },
    "updates-never-ran-since-source: too poor for accuracy to tell": {
        "test": ThreeWays(score(0.1, loss=8e4), score(0.12, loss=2.4), score(0.12, loss=2.5)),
        "train": ThreeWays(score(0.1, loss=8e4), score(0.15, loss=2.3), score(0.15, loss=2.3)),
        "layers": (layer(source=True),) * 2,
        "updates": 0,
    },
    "statistics-lag": {**BROKEN, "decay": 0.9997, "updates": 300},
    "statistics-lag: nothing of the start left": {"test": ways(0.548, 0.724, 0.725)},
    "trained-in-inference-mode": {"test": ways(0.51, 0.32, 0.33), "layers": (layer(initial=True),) * 2},
    "not-finite": {"layers": (layer(), layer(finite=False))},
    "not-batchnorm: overfitting": {"train": ways(1.0, 1.0, 1.0), "test": ways(0.7, 0.7, 0.7)},
    "not-batchnorm: undertrained": {
        "train": ways(0.2, 0.2, 0.2, loss=2.1),
        "test": ways(0.2, 0.2, 0.2, loss=2.1),
    },
}


@pytest.mark.parametrize("name", CASES)
def test_cause(name):
    verdict = judge(dataclasses.replace(HEALTHY, **CASES[name]), target="runs/x")
    assert name == verdict.cause or name.startswith(verdict.cause + ":")
    assert verdict.healthy == (
        verdict.cause in ("healthy", "not-batchnorm: overfitting", "not-batchnorm: undertrained")
    )
    assert verdict.healthy or verdict.remedy
    assert any("is_training=False" in line for line in verdict.evidence)


def test_lag_says_the_share_left_and_a_decay_that_would_have_done():
    verdict = judge(dataclasses.replace(HEALTHY, **BROKEN, decay=0.9997, updates=300), target="runs/x")
    assert "91%" in verdict.sentence
    assert "--bn-decay 0.9667" in verdict.remedy


def test_recalibrating_is_not_the_remedy_where_it_would_hurt():
    verdict = judge(dataclasses.replace(HEALTHY, **CASES["trained-in-inference-mode"]), target="runs/x")
    assert "recalibrate-bn" not in verdict.remedy
