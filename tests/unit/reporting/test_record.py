"""What a report takes from the summary of a batch with a search."""

import json

import pytest

from finetune.errors import FinetuneError
from finetune.reporting.pages import render_run_page
from finetune.reporting.record import read_searches
from tests.unit.reporting.test_pages_run import report, run


def trial(name, state, score):
    return {
        "name": name,
        "state": state,
        "score": score,
        "epoch": 2,
        "settings": {"bn_decay": 0.987654321, "bn": ["<b>"]},
    }


def outcome(**changed):
    best = {**trial("trial-002", "done", 0.75), "command": "finetune run --bn-decay 0.987654321 --bn '<b>'"}
    return {
        "metric": "accuracy", "best": best, "importance": {"bn_decay": 0.9, "bn": 0.1}, "importance_trials": 1,
        "table": [trial("trial-001", "pruned", 0.5), trial("trial-002", "done", 0.75)], **changed,
    }  # fmt: skip


@pytest.fixture
def batch(tmp_path):
    def write(search):
        (tmp_path / "summary.json").write_text(json.dumps({"jobs": [], "search": search} if search else {"jobs": []}))
        return read_searches([tmp_path])

    return write


def test_a_batch_without_a_search_and_one_that_has_none_done(batch):
    assert batch(None) == []
    [found] = batch(outcome(best=None, importance=None))
    assert found["best"] is None


@pytest.mark.parametrize(
    "changed",
    [
        {"table": []},
        {"table": [{**trial("a", "done", 0.5), "settings": {}}]},
        {"table": [trial("a", "done", 0.5), {**trial("b", "done", 0.5), "settings": {"lr": 1}}]},
        {"table": [trial("a", "done", "high")]},
        {"importance": {"bn_decay": "much"}},
        {"best": {"name": "a"}},
        {"metric": None},
    ],
)
def test_a_damaged_summary_is_one_error(batch, changed):
    with pytest.raises(FinetuneError, match=r"summary.json is not what finetune writes \('search"):
        batch(outcome(**changed))


def test_the_page_shows_trials_and_importance_and_escapes_names(batch):
    page = render_run_page({**report(run()), "searches": batch(outcome())}, {})
    assert "Best of 2 trials by validation accuracy: trial-002." in page
    assert "--bn &#39;&lt;b&gt;&#39;</pre>" in page
    assert "<td>0.9877</td>" in page
    assert "pruned" in page
    assert "PED-ANOVA, from 1 finished trials; so few show little" in page
    assert "<b>" not in page.partition("<h2>Search</h2>")[2].partition("</table>")[0]
    assert "<h2>Search</h2>" not in render_run_page(report(run()), {})
