"""The pool, with a stand-in for `finetune run` that needs no TensorFlow."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.batch.call import Call
from finetune.batch.executors import job_process
from finetune.batch.executors.job_process import Process
from finetune.batch.executors.local import Local
from finetune.batch.folder import BatchFolder
from finetune.batch.jobs import read_jobs
from finetune.batch.scheduler import Scheduler
from finetune.batch.status import Display
from finetune.errors import FinetuneError, WrongUse
from tests.support.places import ROOT
from tests.support.stub_run import StubLaunch


class Stubbed(Local):
    """Local workers that run the stand-in; counts how many were under way at once."""

    most = 0

    def start(self, launch):
        Stubbed.most = max(Stubbed.most, sum(handle.poll() is None for handle in self.handles) + 1)
        environment = {"FINETUNE_THREADS": str(self.threads)}
        handle = Process(StubLaunch(launch.arguments, launch.log, environment))
        self.handles.append(handle)
        return handle

    def __init__(self, workers=2, cores=4):
        super().__init__(workers, cores)
        self.handles = []


class Heard(Display):
    def __init__(self):
        self.lines, self.ended_as, self.remaining = [], [], []

    def say(self, text):
        self.lines.append(text)

    def show(self, progress):
        self.remaining.append(progress.remaining)

    def job_ended(self, status):
        self.ended_as.append((status.job.name, status.state))


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """Runs a file of jobs a, b, c, ... that do what is asked of them, word by word; returns the call."""
    monkeypatch.setenv("STUB", str(tmp_path / "stub"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "stub").mkdir()

    def make(defaults="batch-size = 64", seeds=None, **words):
        file = tmp_path / "night.toml"
        tables = [f'[[job]]\nname = "{name}"\n' for name in words]
        file.write_text(f'[defaults]\nbackbone = "resnet_v1_demo"\n{defaults}\n' + "".join(tables))
        for name, what in words.items():
            (tmp_path / "stub" / name).write_text(what)
        every = read_jobs(file, seeds=seeds)
        call = Call(file, BatchFolder(tmp_path / "night"), every, every, display=Heard())
        monkeypatch.setattr(Call, "_survey", lambda self, some: {job.name: {"batch_size": 64} for job in some})
        return call

    return make


def tries(tmp_path, name):
    return (tmp_path / "stub" / f"{name}.seen").read_text().split()


def states(summary):
    return {one.job.name: one.state for one in summary.statuses}


@pytest.mark.slow
def test_done_jobs_are_skipped_and_failed_ones_tried_again(batch, tmp_path):
    call = batch(a="ok", b="fail", c="ok", d="ok")
    Stubbed.most = 0
    first = call.run(lambda: Stubbed(workers=2, cores=5), fail_fast=False)
    assert states(first) == {"a": "done", "b": "failed", "c": "done", "d": "done"}
    assert Stubbed.most == 2
    b = first.statuses[1]
    assert b.error == "it did not work"
    assert call.folder.log(b.job).read_text() == "threads 2 batch 64\nError: it did not work\n"
    rows = json.loads((tmp_path / "night" / "summary.json").read_text())["jobs"]
    assert {row["name"]: row["error"] for row in rows} == {"a": None, "b": "it did not work", "c": None, "d": None}
    assert sorted(call.display.ended_as) == [("a", "done"), ("b", "failed"), ("c", "done"), ("d", "done")]

    second = call.run(lambda: Stubbed(), fail_fast=False)
    assert second.complete
    assert [tries(tmp_path, name) for name in "abcd"] == [["begin"], ["begin", "resume"], ["begin"], ["begin"]]
    assert call.run(lambda: pytest.fail("nothing to run"), fail_fast=False).complete


@pytest.mark.slow
def test_seeds_are_runs_of_their_own_and_a_group_together(batch, tmp_path):
    batch("learning-rate = 0.25", a="ok").run(Stubbed, fail_fast=False)
    summary = batch("learning-rate = 0.25", seeds=3, a="ok", b="ok").run(Stubbed, fail_fast=False)
    assert tries(tmp_path, "a") == ["begin"]
    assert [one.job.name for one in summary.statuses] == ["a", "a-seed_1", "a-seed_2", "b", "b-seed_1", "b-seed_2"]
    assert [(group.name, len(group.done), group.results.mean, group.results.spread) for group in summary.groups] == [
        ("a", 3, 0.25, 0.0),
        ("b", 3, 0.25, 0.0),
    ]
    assert summary.groups[1].verdict == "= best within noise"
    assert json.loads((tmp_path / "night" / "b-seed_2" / "config.json").read_text())["seed"] == 2


@pytest.mark.slow
def test_out_of_memory_halves_the_batch_and_says_so(batch, tmp_path):
    call = batch(a="oom oom ok")
    (status,) = call.run(Stubbed, fail_fast=False).statuses
    assert status.state == "done"
    assert (status.batch_size, status.reduced_from, status.attempts) == (16, 64, 3)
    assert status.note == "batch 64 -> 16 (out of memory; learning rate scaled with it)"
    assert tries(tmp_path, "a") == ["begin", "begin", "begin"]
    assert "a: out of memory; starting again with batch size 32 (learning rate scaled with it)" in call.display.lines
    assert "16 (out of memory" in (tmp_path / "night" / "summary.csv").read_text()
    # The smaller batch is no change of the jobs file.
    call.check()


@pytest.mark.slow
def test_one_job_computes_the_features_that_the_others_want(batch):
    beside, alone = [], []

    class Watched(Stubbed):
        def start(self, launch):
            beside.append(sum(handle.poll() is None for handle in self.handles))
            alone.append(launch.alone)
            return super().start(launch)

    call = batch('preset = "linear-probe"', a="fail", b="ok", c="hang:1", d="hang:1")
    assert not call.run(Watched, fail_fast=False).complete
    assert beside == [0, 0, 0, 1]  # the first two alone, because the first left nothing
    assert alone == [True, True, False, False]


def test_out_of_memory_keeps_a_learning_rate_that_was_given(batch):
    call = batch("learning-rate = 0.25", a="oom ok")  # batch size: what the survey says
    (status,) = call.run(Stubbed, fail_fast=False).statuses
    assert status.note == "batch 64 -> 32 (out of memory; learning rate kept at 0.25)"


def test_there_is_a_smallest_batch(batch):
    call = batch("batch-size = 8", a="oom oom oom oom")
    (status,) = call.run(Stubbed, fail_fast=False).statuses
    assert (status.state, status.attempts) == ("failed", 2)
    assert status.error == "out of memory: lower --batch-size"


@pytest.mark.slow
def test_the_kernels_kill_is_out_of_memory_and_another_kill_is_not(batch, tmp_path, monkeypatch):
    call = batch(a="kill kill ok")
    (status,) = call.run(Stubbed, fail_fast=False).statuses
    assert (status.state, status.batch_size, status.attempts) == ("done", 64, 3)
    assert tries(tmp_path, "a") == ["begin", "resume", "resume"]

    counts = iter([0, 1, 1, 1])
    monkeypatch.setattr(job_process, "oom_kill_count", lambda: next(counts))
    call = batch(b="kill ok")
    (status,) = call.run(Stubbed, fail_fast=False).statuses
    assert (status.state, status.batch_size) == ("done", 32)
    assert tries(tmp_path, "b") == ["begin", "begin"]


@pytest.mark.slow
def test_what_is_killed_over_and_over_fails_at_last(batch):
    call = batch(a="kill " * 9)
    (status,) = call.run(Stubbed, fail_fast=False).statuses
    assert (status.state, status.attempts) == ("failed", 6)
    assert status.error == "killed (SIGKILL)"


def test_a_directory_that_was_no_run_yet_is_begun_anew(batch, tmp_path):
    call = batch(a="kill-early ok")
    assert call.run(Stubbed, fail_fast=False).complete
    assert tries(tmp_path, "a") == ["begin", "begin"]
    assert not (tmp_path / "night" / "a" / "load.json").exists()


@pytest.mark.slow
def test_fail_fast_stops_the_others_which_go_on_later(batch, tmp_path):
    call = batch(a="hang:60 ok", b="fail-once:a fail", c="ok")
    summary = call.run(Stubbed, fail_fast=True)
    assert states(summary) == {"a": "interrupted", "b": "failed", "c": "pending"}
    assert "stopped at step 2" in summary.statuses[0].error
    assert states(call.run(Stubbed, fail_fast=False)) == {"a": "done", "b": "failed", "c": "done"}
    assert tries(tmp_path, "a") == ["begin", "resume"]


def test_a_run_whose_plan_was_not_kept_is_no_success(batch):
    (status,) = batch(a="moved").run(Stubbed, fail_fast=False).statuses
    assert status.state == "failed"
    assert "freeze plan" in status.error


def test_a_changed_file_is_refused_by_name(batch, tmp_path):
    call = batch(a="ok", b="ok")
    call.run(Stubbed, fail_fast=False)
    changed = batch("batch-size = 64\nepochs = 7", a="ok", b="ok", c="ok")
    with pytest.raises(WrongUse) as refused:
        changed.run(Stubbed, fail_fast=False)
    for words in ("2 of its jobs", "a: epochs is null there, 7 in the file", "b: epochs", "another 'name'"):
        assert words in str(refused.value)
    # One job less and one more are no change; and who deletes the directory gets the new settings.
    assert states(batch(b="ok", c="ok").run(Stubbed, fail_fast=False)) == {"b": "done", "c": "done"}
    again = batch("batch-size = 32", a="ok")
    for path in (tmp_path / "night" / "a").rglob("*"):
        if path.is_file():
            path.unlink()
    (tmp_path / "night" / "a" / "checkpoints").rmdir()
    (tmp_path / "night" / "a").rmdir()
    again.run(Stubbed, fail_fast=False)
    assert json.loads((tmp_path / "night" / "a" / "config.json").read_text())["batch_size"] == 32
    again.check()


def test_a_directory_that_is_no_run_of_ours_is_left_alone(batch, tmp_path):
    call = batch(a="ok")
    (tmp_path / "night" / "a").mkdir(parents=True)
    (tmp_path / "night" / "a" / "thesis.tex").touch()
    with pytest.raises(WrongUse, match=r"night/a already exists and is not a run: give another --runs-dir"):
        call.run(Stubbed, fail_fast=False)
    assert (tmp_path / "night" / "a" / "thesis.tex").exists()


def test_a_damaged_record_is_one_failed_job(batch):
    call = batch(a="ok", b="ok")
    call.run(Stubbed, fail_fast=False)
    path = call.folder.log(call.jobs[0]).with_name("job.json")
    path.write_text("{}")
    summary = call.summary_only()
    assert states(summary) == {"a": "failed", "b": "done"}
    assert "job.json is damaged" in summary.statuses[0].error


def test_two_calls_at_once(batch):
    call = batch(a="ok", b="ok")
    one = dataclasses.replace(call, jobs=call.jobs[:1])
    with call.folder.locked(shared=True):
        assert states(one.run(Stubbed, fail_fast=False)) == {"a": "done", "b": "pending"}
        assert not (call.folder.path / "summary.json").exists()
        with pytest.raises(FinetuneError, match="in use by another 'finetune batch'"):
            call.run(Stubbed, fail_fast=False)


def test_a_run_held_by_another_process_is_waited_for(batch, monkeypatch):
    call = batch(a="hang:60 ok", b="ok")
    folder, job = call.folder, call.jobs[0]
    child = Process(
        StubLaunch(("run", "--config", str(_config(folder, job)), "--run-dir", str(folder.run(job))), folder.log(job))
    )
    while not (folder.run(job).path / "pid").exists():
        time.sleep(0.02)
    heard = Heard()
    scheduler = Scheduler(folder, call.jobs, Stubbed(), _Watcher(heard, child), surveys={}, summarise=False)
    assert [one.state for one in scheduler.run(lambda: False)] == ["done", "done"]
    assert heard.lines[0] == "a: waiting for another process, which holds its run directory"
    assert heard.ended_as[0] == ("b", "done")


class _Watcher:
    """Stops the other process once the job beside it is done."""

    def __init__(self, heard, child):
        self.heard, self.child = heard, child
        self.say = heard.say

    def show(self, progress):
        self.child.poll()

    def job_ended(self, status):
        self.heard.job_ended(status)
        self.child.end(kill=False)


def _config(folder, job):
    folder.write_config(job, None)
    return folder.config(job)


PARENT = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.unit.batch.test_scheduler import Stubbed
from finetune.batch.call import Call
from finetune.batch.folder import BatchFolder
from finetune.batch.jobs import read_jobs
Call._survey = lambda self, some: {{}}
every = read_jobs(Path("night.toml"))
Call(Path("night.toml"), BatchFolder(Path("night")), every, every).run(Stubbed, fail_fast=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_when_the_parent_goes_its_children_save_their_state_and_a_second_call_goes_on(batch, tmp_path, number):
    call = batch(a="hang:60 ok", b="hang:60 ok", c="ok")
    program = PARENT.format(root=str(ROOT))
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as parent:
        pids = [tmp_path / "night" / name / "pid" for name in "ab"]
        while not all(path.exists() and path.read_text() for path in pids):
            assert parent.poll() is None, parent.stderr.read()
            time.sleep(0.02)
        parent.send_signal(number)
        stderr = parent.stderr.read()
    assert parent.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 1), stderr
    assert ("stopped: 0 of 3 jobs done; repeat the command to go on" in stderr) == (number != signal.SIGKILL)
    deadline = time.monotonic() + 120
    while any(_alive(int(path.read_text())) for path in pids):
        assert time.monotonic() < deadline, "an orphan lives on"
        time.sleep(0.02)
    assert all((path.parent / "checkpoints" / "state.npz").exists() for path in pids)
    assert call.run(Stubbed, fail_fast=False).complete
    assert [tries(tmp_path, name) for name in "abc"] == [["begin", "resume"], ["begin", "resume"], ["begin"]]


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_cores_are_divided_fairly():
    assert [Local(workers, 8).threads for workers in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    assert Local(9, 8).describe() == "9 at once, which is more than there are cores, 1 of 8 cores each"
