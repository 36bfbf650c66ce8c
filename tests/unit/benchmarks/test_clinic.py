"""A cut-down clinic: causes brought about by training a tiny network on generated images; each is named."""

import json

import pytest

from benchmarks.clinic import patients
from benchmarks.clinic.__main__ import RESULTS, judged, right
from benchmarks.clinic.cells import CELLS, bring
from finetune.batchnorm.statistics import KerasSubject
from finetune.diagnosis.measure import examine
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.verdict import judge


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """The tiny network's source weights are trained here, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patients, "WORK", tmp_path_factory.mktemp("clinic"))
        yield


CUT_DOWN = [cell for cell in CELLS if cell.recipe.body == "tiny"]


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("cell", CUT_DOWN, ids=lambda cell: cell.key)
def test_the_cause_is_named(cell):
    patient = bring(cell)
    evidence = examine(
        KerasSubject(patient.model), test=patient.test, train=patient.train, source=patient.source, facts=patient.facts
    )
    verdict = judge(evidence, Commands("MODEL"))
    if cell.expected == "healthy":
        assert verdict.healthy, verdict.sentence
    else:
        assert verdict.cause == cell.expected, verdict.sentence


def test_there_is_a_sick_one_of_each_kind_and_a_healthy_one():
    assert len({cell.expected for cell in CUT_DOWN}) >= 6


def test_the_kept_evidence_is_still_judged_right():
    rows = {row["cell"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}
    assert len(rows) >= 120
    assert [row["cell"] for row in rows.values() if not right(row, judged(row))] == []
