"""What Optuna is asked, with scores that were made up; which trials it proposes is its own affair."""

import random

import numpy as np
import pytest

from finetune.batch.jobs import Job
from finetune.batch.optuna_study import STARTUP, importance, is_pruned, suggest
from finetune.batch.search_space import Choices, Interval
from finetune.batch.status import JobStatus
from finetune.config import RunConfig

SPACE = {
    "learning_rate": Interval(1e-4, 1e-2, log=True),
    "epochs": Interval(2, 9, 1, whole=True),
    "freeze": Choices(((), ("*",))),
    "dropout": Interval(0.1, 0.7, 0.2),
}


def trial(number, state="done", scores=(0.1, 0.2), **settings):
    known = {"learning_rate": 1e-3, "epochs": 3, "freeze": (), "dropout": 0.7} | settings
    config = RunConfig("resnet_v1_demo", **known)
    job = Job(number, f"trial-{number:03d}", f"trial-{number:03d}", config, known)
    return JobStatus(
        job, state, epoch=len(scores), epochs=9, scores=dict(enumerate(scores, 1)),
        kept={"validation_accuracy": scores[-1]} if scores else {},
    )  # fmt: skip


def test_a_proposal_is_a_function_of_seed_number_and_trials():
    drawn = random.Random(0)
    trials = [trial(number, learning_rate=10 ** drawn.uniform(-4, -2)) for number in range(1, 13)]
    trials += [trial(13, "running"), trial(14, "pruned"), trial(15, "failed", ()), trial(16, "interrupted", ())]
    first = suggest(SPACE, trials, seed=1, number=17)
    assert first == suggest(SPACE, trials, seed=1, number=17)
    assert first != suggest(SPACE, trials, seed=2, number=17)
    assert first != suggest(SPACE, trials, seed=1, number=18)
    assert first.keys() == SPACE.keys()
    assert 1e-4 <= first["learning_rate"] <= 1e-2
    assert type(first["epochs"]) is int
    assert first["dropout"] in [0.1, 0.1 + 0.2, 0.5, 0.7]
    assert first["freeze"] in ((), ("*",))


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_trial_is_pruned_below_the_median_of_the_same_epoch(epoch):
    curves = np.random.default_rng(0).uniform(0.2, 0.8, (6, 3))
    others = [trial(number, scores=curve.tolist()) for number, curve in enumerate(curves, 1)]
    median = float(np.median(curves[:, epoch - 1]))
    below = trial(9, "running", (0.0,) * (epoch - 1) + (median - 1e-3,))
    above = trial(9, "running", (0.0,) * (epoch - 1) + (median + 1e-3,))
    assert is_pruned(SPACE, below, others) == (epoch > 1)
    assert not is_pruned(SPACE, above, others)
    assert not is_pruned(SPACE, below, others[: STARTUP - 1])


def test_importance_names_the_setting_that_decides():
    drawn = random.Random(0)
    rates = [10 ** drawn.uniform(-4, -2) for _ in range(40)]
    trials = [
        trial(number, learning_rate=rate, epochs=drawn.randint(2, 9), freeze=drawn.choice([(), ("*",)]), scores=(rate,))
        for number, rate in enumerate(rates, 1)
    ]
    found = importance(SPACE, trials)
    assert next(iter(found)) == "learning_rate"
    assert found["learning_rate"] > 0.7
    assert sum(found.values()) == pytest.approx(1)
    assert importance(SPACE, trials[:1]) is None
    assert importance(SPACE, [trial(1), trial(2)]) is None  # their scores are the same
    assert set(importance(SPACE, trials[:2])) == set(SPACE)
