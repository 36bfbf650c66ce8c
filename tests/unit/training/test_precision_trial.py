"""`--precision auto`: the rule on known trials, that a trial leaves no trace, and runs that keep the choice."""

import json

import numpy as np
import pytest

from finetune.config import RunConfig, check_config
from finetune.errors import WrongUse
from finetune.training import precision_trial, start
from finetune.training.display import Display
from finetune.training.precision_trial import Timed, judge, settle_precision
from tests.support.commands import tiny_backbone, typed

SETTINGS = {"data": "demo-target", "examples": 60, "epochs": 1, "image_size": 16, "batch_size": 20, "validation": 0.0}


class Heard(Display):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def config(**settings):
    return RunConfig(**SETTINGS | settings, backbone=str(tiny_backbone()), precision="auto")


@pytest.fixture
def able(monkeypatch, home):
    """A processor that multiplies bfloat16, and trials of no length; the cache is empty."""
    monkeypatch.setattr(precision_trial, "precision_pays", lambda _: True)
    monkeypatch.setattr(precision_trial, "SECONDS", 0.0)
    return home


@pytest.mark.parametrize(
    ("seconds", "losses", "chosen", "words"),
    [
        (
            0.5,
            [2.3, 2.2, 2.1],
            "bfloat16",
            "it is 2.00 times as fast as float32 (0.5 and 1 s a step), with a loss of 2.2",
        ),
        (0.96, [2.3, 2.2], "float32", "bfloat16 does not pay here: it is 1.04 times as fast"),
        (2.0, [2.3, 2.2], "float32", "does not pay here: it is 0.50 times as fast"),
        (0.5, [2.34, 2.24, 2.14], "bfloat16", "over the first 3 steps"),
        (0.5, [2.36, 2.26, 2.16], "float32", "bfloat16 learns worse"),
        (0.5, [2.3, float("nan")], "float32", "bfloat16 learns worse"),
    ],
)
def test_the_faster_one_that_learns_alike(seconds, losses, chosen, words):
    trials = {"float32": Timed(1.0, (2.3, 2.2, 2.1, 9.0)), "bfloat16": Timed(seconds, tuple(losses))}
    choice = judge("bfloat16", trials)
    assert choice.precision == chosen
    assert words in choice.reason


def test_a_trial_leaves_no_trace_and_is_made_once(able, monkeypatch):
    prepared, heard = start.plan(config(learning_rate="auto", dropout=0.2)), Heard()
    before = [np.array(variable) for variable in prepared.model.variables]
    settled, choice = settle_precision(prepared, heard)
    assert settled.config.precision == choice.precision
    assert set(choice.trials) == {"float32", "bfloat16"}
    for one in choice.trials.values():
        assert len(one.losses) == precision_trial._LEAST_STEPS + 1
        assert one.losses[0] == pytest.approx(np.log(10), rel=0.5)
    for old, new in zip(before, prepared.model.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(new))
    assert heard.lines[0] == "precision: some steps in float32 and bfloat16; the model is then restored"
    monkeypatch.setattr(precision_trial, "_timed", lambda *_: pytest.fail("tried again"))
    again, same = settle_precision(prepared, heard)
    assert again.config == settled.config
    assert same.trials == choice.trials
    assert same.reason == f"{choice.reason}, by an earlier trial on this machine"


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[]",
        '{"trials": {"float32": {"seconds": 1, "losses": []}, "x": {"seconds": 0, "losses": []}}}',
        '{"trials": {"float32": {"seconds": 1, "losses": [1]}}}',
    ],
)
def test_a_damaged_record_is_tried_again(able, monkeypatch, damage):
    fast = {"float32": Timed(1.0, (1.0,)), "bfloat16": Timed(0.5, (1.0,))}
    monkeypatch.setattr(precision_trial, "_timed", lambda _, precision: fast[precision])
    prepared = start.plan(config())
    settle_precision(prepared, Display())
    (record,) = (able / "precision").iterdir()
    record.write_text(damage)
    assert settle_precision(prepared, Display())[1].precision == "bfloat16"
    assert json.loads(record.read_text())["precision"] == "bfloat16"


@pytest.mark.parametrize(
    ("settings", "pays", "words"),
    [({}, False, "no instructions for 16 bits"), ({"freeze": ("*",)}, True, "only the last layer trains")],
)
def test_float32_without_a_trial(home, monkeypatch, settings, pays, words):
    monkeypatch.setattr(precision_trial, "precision_pays", lambda _: pays)
    monkeypatch.setattr(precision_trial, "_timed", lambda *_: pytest.fail("tried"))
    settled, choice = settle_precision(start.plan(config(**settings)), Display())
    assert settled.config.precision == choice.precision == "float32"
    assert words in choice.reason


def test_a_run_keeps_the_choice_and_repeats_it(able, tmp_path, monkeypatch):
    fast = {"float32": Timed(1.0, (1.0,)), "bfloat16": Timed(0.5, (1.0,))}
    monkeypatch.setattr(precision_trial, "_timed", lambda _, precision: fast[precision])
    run = start.start(config(learning_rate=0.01), run_dir=tmp_path / "run")
    assert run.read("config.json")["precision"] == "bfloat16"
    assert run.read("precision.json")["trials"]["bfloat16"] == {"seconds": 0.5, "losses": [1.0]}
    repeated = typed(f"run --config {run.path}/config.json --dry-run --json")
    assert json.loads(repeated.stdout)["config"]["precision"] == "bfloat16"


def test_it_is_refused_on_several_devices():
    asked = config(distribute="mirrored")
    with pytest.raises(WrongUse, match=r"--precision auto contradict each other, .* timed, on one device"):
        check_config(asked)
