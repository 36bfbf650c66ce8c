"""What a batch shows while it runs, in a terminal and in a file."""

import re

import pytest

from finetune.batch.jobs import Job
from finetune.batch.status import JobStatus, Progress, TimeLeft
from finetune.cli.display_batch import BatchDisplay
from finetune.config import RunConfig
from finetune.reporting.words import seconds as duration


def status(index, state, **known):
    return JobStatus(Job(index, f"job-{index}", f"job-{index}", RunConfig("resnet_v1_demo"), {}), state, **known)


STATUSES = (
    status(1, "done", validation=0.8, test=0.75, examples=1000, seconds=61.4, epochs=3),
    status(2, "running", epoch=2, epochs=5, step=40, validation=0.5, images_per_second=123.4),
    status(3, "running"),
    status(4, "failed", error="the loss is not finite"),
    status(5, "pending"),
)


def shown(capsys, monkeypatch, statuses, remaining=None):
    """What a terminal has been sent, without what colours it and moves the cursor."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    display = BatchDisplay(quiet=False)
    with display.running() as inside:
        inside.show(Progress(statuses, remaining))
        inside.show(Progress((), None))  # a moment later: drawn a few times a second at most
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)


def test_a_terminal_has_a_table_of_what_runs_what_failed_and_how_long_it_still_takes(capsys, monkeypatch):
    lines = [line.split() for line in shown(capsys, monkeypatch, STATUSES, TimeLeft(700.0, 1)).splitlines()]
    assert ["running", "epoch", "step", "validation", "images/s"] in lines
    assert ["job-2", "2/5", "40/100", "50.0%", "123"] in lines
    assert ["job-3", "starting", "-"] in lines
    assert ["failed", "job-4:", "the", "loss", "is", "not", "finite"] in lines
    headline = "1 done, 1 failed, 2 running, 1 pending, best so far job-1 (validation 80.0%), about 12 min left ("
    said = [" ".join(line) for line in lines]
    assert any(sorted(line.split(", ")) == sorted(f"{headline}1 measured)".split(", ")) for line in said), said


def test_of_many_that_run_a_dozen_is_shown(capsys, monkeypatch):
    said = shown(capsys, monkeypatch, [status(index, "running") for index in range(1, 16)])
    assert said.split("images/s")[-1].count("starting") == 12
    assert "... and 3 more" in said


def test_a_file_gets_a_line_for_each_job_that_has_ended_and_where_all_stand(capsys):
    display = BatchDisplay(quiet=False)
    with display.running():
        display.show(Progress(STATUSES, None))
        display.job_ended(STATUSES[0])
        display.job_ended(STATUSES[3])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "done         job-1  validation 80.0%, test 75.0%  61 s"
    assert lines[2] == "failed       job-4  the loss is not finite"
    assert lines[1] == lines[3]
    assert "best so far job-1 (validation 80.0%)" in lines[1]


@pytest.mark.parametrize(("seconds", "words"), [(89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")])
def test_durations_are_rough(seconds, words):
    assert duration(seconds) == words
