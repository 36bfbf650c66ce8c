"""The ranking, means and spreads, and when a difference is noise: held against NumPy."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from finetune.batch.folder import BatchFolder
from finetune.batch.jobs import Job
from finetune.batch.status import JobStatus, time_left
from finetune.batch.summary import summarise, write_summary
from finetune.config import RunConfig


def job(index, name, group=None, **settings):
    return Job(index, name, group or name, RunConfig(backbone="resnet_v1_demo", **settings), settings)


def done(index, name, test, validation=None, *, group=None, examples=1000, **settings):
    return JobStatus(
        job(index, name, group, **settings), "done", test=test, validation=validation, examples=examples, test_batch=0.5
    )


def test_ranked_by_validation_and_the_test_set_only_reports():
    found = summarise([done(1, "a", 0.9, 0.5), done(2, "b", 0.6, 0.8), done(3, "c", 0.7, 0.7)])
    assert [(group.name, group.rank) for group in found.groups] == [("b", 1), ("c", 2), ("a", 3)]
    assert found.ranked_by == "validation"
    assert [group.verdict for group in found.groups] == ["best", "+10.0 points", "+30.0 points"]


def test_ranked_by_test_where_one_has_no_validation():
    found = summarise([done(1, "a", 0.9), done(2, "b", 0.6, 0.8)])
    assert ([group.name for group in found.groups], found.ranked_by) == (["a", "b"], "test")


@pytest.mark.parametrize(("select_by", "order"), [("macro-f1", "ba"), ("loss", "ab"), ("accuracy", "ab")])
def test_ranked_by_the_score_that_all_jobs_select_by(select_by, order, tmp_path):
    def scored(name, accuracy, f1, loss, **settings):
        kept = {"validation_accuracy": accuracy, "validation_macro_f1": f1, "validation_loss": loss}
        test = {"macro_f1": f1 / 2, "loss": 2 * loss, "accuracy": accuracy}
        one = done(1, name, accuracy, accuracy, select_by=select_by, **settings)
        return replace(one, kept=kept, test_scores=test)

    found = summarise([scored("a", 0.9, 0.3, 0.2), scored("b", 0.8, 0.5, 0.4)])
    assert "".join(group.name for group in found.groups) == order
    (tmp_path / "jobs").mkdir()
    written = found.to_json(BatchFolder(tmp_path / "jobs"))
    assert written["ranked_by"] == f"validation_{select_by.replace('-', '_')}"
    of_a = next(one for one in written["groups"] if one["name"] == "a")
    expected = {"macro-f1": (0.3, 0.15), "loss": (0.2, 0.4), "accuracy": (0.9, 0.9)}[select_by]
    assert (of_a["validation_selected"], of_a["test_selected"]) == expected
    # Others select by accuracy: all are ranked by it.
    mixed = summarise([*found.statuses, scored("c", 0.95, 0.1, 0.9)])
    other = replace(mixed.statuses[2], job=job(3, "c", select_by="balanced-accuracy"))
    assert [one.name for one in summarise([*found.statuses, other]).groups] == ["c", "a", "b"]


def test_seeds_are_pooled_as_numpy_does():
    first, second = [0.912, 0.931, 0.918], [0.905, 0.911, 0.899]
    statuses = [
        done(number, f"{name}{seed}", value, value, group=name, seed=seed)
        for name, values in (("a", first), ("b", second))
        for number, (seed, value) in enumerate(enumerate(values), 1)
    ]
    a, b = summarise(statuses).groups
    for group, values in ((a, first), (b, second)):
        assert group.results.mean == pytest.approx(np.mean(values))
        assert group.results.spread == pytest.approx(np.std(values, ddof=1))
        assert group.results.variance == pytest.approx(
            np.mean(values) * (1 - np.mean(values)) / 1000 + np.var(values, ddof=1) / 3
        )
    noise = 2 * np.sqrt(a.results.variance + b.results.variance)
    assert abs(a.results.mean - b.results.mean) < noise
    assert b.verdict == "= best within noise"


def test_noise_has_an_edge():
    """At 1,000 images and 90 %, two standard errors of the difference are 2.68 points."""
    for test, verdict in ((0.874, "= best within noise"), (0.870, "-3.0 points")):
        found = summarise([done(1, "a", 0.9, 0.9), done(2, "b", test, 0.8)])
        assert found.groups[1].verdict == verdict, test
    wide = summarise([done(1, "a", 0.9, 0.9, examples=100_000), done(2, "b", 0.89, 0.8, examples=100_000)])
    assert wide.groups[1].verdict == "-1.0 points"


def test_what_has_no_result_comes_last_and_a_group_counts_what_is_done():
    statuses = [
        JobStatus(job(1, "a", seed=0), "failed", error="boom"),
        done(2, "b", 0.6, 0.8, group="b"),
        JobStatus(job(3, "b-seed_1", "b", seed=1), "pending"),
    ]
    found = summarise(statuses)
    assert [(group.name, group.rank, len(group.done)) for group in found.groups] == [("b", 1, 1), ("a", None, 0)]
    assert found.groups[0].results.spread is None
    assert (found.counts, found.complete) == ({"done": 1, "failed": 1, "pending": 1}, False)
    assert summarise([JobStatus(job(1, "a"), "pending")]).groups[0].verdict == ""


def test_the_files(tmp_path):
    statuses = [
        done(1, "a,b", 0.9, 0.7, epochs=1, freeze=("x", "*")),
        JobStatus(job(2, "c", epochs=2), "failed", error='say "no",\nplease'),
    ]
    found = summarise(statuses)
    write_summary(BatchFolder(tmp_path), found)
    value = json.loads((tmp_path / "summary.json").read_text())
    assert value["counts"] == {"done": 1, "failed": 1}
    assert value["jobs"][0]["settings"] == {"epochs": 1, "freeze": ["x", "*"]}
    with open(tmp_path / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a,b", "c"]
    assert (rows[0]["test_accuracy"], rows[0]["setting_freeze"], rows[0]["setting_epochs"]) == ("0.9", "x *", "1")
    assert rows[1]["error"] == 'say "no",\nplease'
    assert rows[1]["rank"] == rows[1]["test_accuracy"] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.csv", "summary.json"]


def test_time_left_comes_from_measurements_only():
    pending = [JobStatus(job(index, f"p{index}"), "pending", epochs=4) for index in (1, 2)]
    pixels = {"p1": 1000, "p2": 3000, "m": 2000, "r": 4000}
    assert time_left(pending, pixels, 1) is None
    measured = JobStatus(job(3, "m"), "done", seconds=20.0)
    left = time_left([*pending, measured], pixels, 1)
    assert (left.seconds, left.measured) == (40.0, 1)
    assert time_left([*pending, measured], pixels, 2).seconds == 30.0  # p2 alone takes as long
    running = JobStatus(job(4, "r"), "running", epoch=1, epochs=4, epoch_seconds=5.0)
    assert time_left([running], pixels, 1).seconds == 15.0
    assert time_left([*pending, measured], {**pixels, "p1": None}, 1) is None
    assert time_left([measured], pixels, 1).seconds == 0.0


def test_time_left_is_taken_from_the_same_backbone_where_it_was_measured():
    other = Job(1, "o", "o", RunConfig(backbone="other"), {})
    statuses = [
        JobStatus(other, "done", seconds=1000.0),
        JobStatus(job(2, "m"), "done", seconds=10.0),
        JobStatus(job(3, "p"), "pending"),
    ]
    assert time_left(statuses, {"o": 10, "m": 10, "p": 20}, 1).seconds == 20.0
