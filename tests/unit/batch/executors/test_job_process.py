"""Where a process runs, and why it ended: out of memory is told from a crash, a kill and a stop."""

import sys

import pytest

from finetune.batch.executors import job_process
from finetune.batch.executors.job_process import Ended, Launch, Process

TEARS = "Traceback (most recent call last):\n  File x\n"


@pytest.mark.parametrize(
    ("code", "text", "oom_kills", "kind", "words"),
    [
        (0, "all is well\n", 0, "done", None),
        (1, "epoch 1\nError: the loss is nan at step 3\n", 0, "failed", "the loss is nan at step 3"),
        (1, TEARS + "ValueError: no\n", 0, "failed", "exit code 1: ValueError: no"),
        (3, "", 0, "failed", "exit code 3"),
        (1, "Error: out of memory: lower --batch-size\n", 0, "out-of-memory", "out of memory: lower --batch-size"),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'\n", 0, "out-of-memory", "out of memory"),
        (1, TEARS + "ResourceExhaustedError: OOM when allocating tensor\n", 0, "out-of-memory", "out of memory"),
        (-9, "epoch 1\n", 1, "out-of-memory", "out of memory: the kernel killed it (SIGKILL)"),
        (-9, "epoch 1\n", 0, "killed", "killed (SIGKILL)"),
        (-9, "epoch 1\n", None, "killed", "killed (SIGKILL); the memory may have run out"),
        (-11, "a\nlast line\n\n", 0, "failed", "ended by SIGSEGV: last line"),
        (-15, "", 0, "interrupted", "stopped before its first step"),
        (130, "Error: stopped at step 2 of 12; continue with: x\n", 0, "interrupted", "stopped at step 2 of 12"),
        (130, "out of memory was never said\nError: stopped at step 2\n", 1, "interrupted", "stopped at step 2"),
    ],
)
def test_outcomes(tmp_path, code, text, oom_kills, kind, words):
    log = tmp_path / "job.log"
    earlier = "Error: out of memory: what an earlier attempt said\n"
    log.write_text(earlier + text)
    found = job_process.judge(Ended(code, oom_kills=oom_kills), log, len(earlier), done=code == 0)
    assert found.kind == kind
    assert (found.error or "").startswith(words or "")
    assert (found.error is None) == (words is None)


def test_success_without_a_result_is_none(tmp_path):
    assert job_process.judge(Ended(0), tmp_path / "no.log", 0, done=False).kind == "failed"


def test_a_lost_machine(tmp_path):
    found = job_process.judge(Ended(None, "its node died"), tmp_path / "no.log", 0, done=False)
    assert (found.kind, found.error) == ("lost", "its node died")


def test_a_machine_that_ran_out_of_memory(tmp_path):
    lost = "OutOfMemoryError: 2 workers were killed due to the node running low on memory"
    assert job_process.judge(Ended(None, lost), tmp_path / "no.log", 0, done=False).kind == "out-of-memory"


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    log = tmp_path / "job.log"
    log.write_text("Error: first\n" + "x" * 200_000 + "\nError: last\n")
    assert job_process.judge(Ended(1), log, 0, done=False).error == "last"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cgroup": "0::/job\n", "fs/cgroup/job/memory.events": "low 0\noom 3\noom_kill 2\n"}, 2),
        ({"cgroup": "4:memory:/j\n0::/\n", "fs/cgroup/memory/j/memory.oom_control": "under_oom 0\noom_kill 5\n"}, 5),
        ({"cgroup": "0::/gone\n", "vmstat": "pgfault 9\noom_kill 7\n"}, 7),
        ({"vmstat": "pgfault 9\n"}, None),
        ({}, None),
    ],
)
def test_what_the_kernel_counted(files, expected, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    places = {"/proc/self/cgroup": "cgroup", "/proc/vmstat": "vmstat"}

    def moved(path):
        return tmp_path / places.get(path, path.removeprefix("/sys/"))

    monkeypatch.setattr(job_process, "Path", moved)
    assert job_process.oom_kill_count() == expected


class WhereItRuns(Launch):
    @property
    def command(self):
        return [sys.executable, "-c", "import os; print(os.getcwd())"]


def test_a_process_runs_where_its_relative_paths_start(tmp_path):
    """Not where its parent is: that is a folder of Ray's on a node of a cluster."""
    (tmp_path / "batch").mkdir()
    assert Process(WhereItRuns((), tmp_path / "log", folder=str(tmp_path / "batch"))).wait().exit_code == 0
    assert (tmp_path / "log").read_text().strip() == str(tmp_path / "batch")
