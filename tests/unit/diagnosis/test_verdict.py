"""The reading of evidence, without a model: one table of cases, near misses beside them."""

import dataclasses
import json
from pathlib import Path

import pytest

from finetune.diagnosis.verdict import judge
from tests.unit.diagnosis.made_evidence import BROKEN, COMMANDS, HEALTHY, NAME, facts, fed, layer
from tests.unit.diagnosis.verdict_cases import CASES

VERDICTS = Path(__file__).with_name("verdicts.json")


@pytest.mark.parametrize("name", CASES)
def test_cause(name):
    verdict = judge(dataclasses.replace(HEALTHY, **CASES[name]), COMMANDS)
    assert name == verdict.cause or name.startswith((verdict.cause + ":", verdict.cause + ","))
    fine = verdict.cause in ("healthy", "inference-mode-by-design")
    assert verdict.healthy == (fine or verdict.cause.startswith("not-batchnorm"))
    assert verdict.exit_code == (4 if verdict.cause == "undetermined" else 0 if verdict.healthy else 3)
    assert (verdict.remedy is None) == fine
    assert 0.5 <= verdict.confidence < 1
    assert verdict.runner_up != verdict.cause
    assert bool(verdict.why_not) == bool(verdict.runner_up)
    assert bool(verdict.runner_up) == (verdict.cause != "undetermined")
    assert any("is_training=False" in line for line in verdict.evidence)


def named(evidence):
    """Layers with names of their own, where a case gives them none."""
    layers = [
        dataclasses.replace(one, name=f"block{number}/BatchNorm") if one.name == NAME else one
        for number, one in enumerate(evidence.layers, 1)
    ]
    return dataclasses.replace(evidence, layers=tuple(layers))


def in_full():
    cases = {name: named(dataclasses.replace(HEALTHY, **case)) for name, case in CASES.items()}
    return json.loads(json.dumps({name: judge(evidence, COMMANDS).to_json() for name, evidence in cases.items()}))


def test_every_word_of_every_verdict():
    """As read and found right. `python tests/unit/diagnosis/test_verdict.py` writes them anew: read the difference."""
    assert in_full() == json.loads(VERDICTS.read_text())


@pytest.mark.parametrize("name", CASES)
def test_recalibrating_is_the_remedy_where_it_cures_and_nowhere_else(name):
    evidence = dataclasses.replace(HEALTHY, **CASES[name])
    verdict = judge(evidence, COMMANDS)
    recalibrate = (verdict.remedy or "").startswith("finetune recalibrate-bn runs/x")
    cures = any(
        scores.recalibrated.loss < scores.is_training_false.loss
        or scores.recalibrated.accuracy > scores.is_training_false.accuracy + 0.03
        for scores in (evidence.test, evidence.train)
    )
    mended_otherwise = verdict.healthy or verdict.cause in ("wrong-preprocessing", "not-finite", "undetermined")
    assert recalibrate == cures or mended_otherwise


def test_lag_says_the_share_left_and_a_decay_that_would_have_done():
    verdict = judge(dataclasses.replace(HEALTHY, **BROKEN, facts=facts(decay=0.9997, updates=300)), COMMANDS)
    assert "91%" in verdict.sentence
    assert "0.9667 would have done" in verdict.sentence
    assert verdict.remedy == (
        "finetune recalibrate-bn runs/x  # or train again: finetune run --config runs/x/config.json --bn-decay 0.9667"
    )


def test_the_preprocessing_that_fits_is_named_double_normalisation_included():
    case = {**BROKEN, "preprocessing": fed("inception twice", 0.88, 0.92)}
    verdict = judge(dataclasses.replace(HEALTHY, **case), COMMANDS)
    assert "'inception twice', a double normalisation" in verdict.sentence
    assert verdict.remedy == "finetune diagnose-bn runs/x --preprocess 'inception twice'"


def test_pytorchs_convention_is_recognised():
    case = {**BROKEN, "layers": (layer(0.2, noise=0.2),), "facts": facts(decay=0.1)}
    assert "PyTorch's momentum, which is 1 - decay: 0.9 was meant" in judge(
        dataclasses.replace(HEALTHY, **case), COMMANDS
    ).sentence  # fmt: skip


def test_what_it_is_not_comes_with_figures():
    verdict = judge(dataclasses.replace(HEALTHY, **BROKEN), COMMANDS)
    for words in (
        "not the preprocessing",
        "not the labels",
        "not different data",
        "not the batches",
        "not overfitting",
    ):
        assert any(line.startswith(words) and ("%" in line or "sigma" in line) for line in verdict.not_because)


if __name__ == "__main__":
    VERDICTS.write_text(json.dumps(in_full(), indent=1) + "\n")
