"""Jobs forked from a process that has imported TensorFlow: they must not differ from `python -m finetune`."""

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from finetune.batch.executors.job_process import Launch
from finetune.batch.executors.local import Forked, Local
from finetune.batch.jobs import Job, read_jobs
from finetune.batch.scheduler import features_of
from tests.support.places import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux only")

RUN = (
    "run", "--backbone", "resnet_v1_demo", "--data", "demo-target", "--image-size", "16", "--examples", "100",
    "--batch-size", "20", "--learning-rate", "0.003",
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_checkout(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def launched(tmp_path, *arguments, **environment):
    return Forked(Launch(arguments, tmp_path / "logs" / "job.log", environment))


def log(tmp_path):
    return (tmp_path / "logs" / "job.log").read_text()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_it_prints_and_how_it_ends(tmp_path):
    assert launched(tmp_path, "--version").wait().exit_code == 0
    assert log(tmp_path).startswith("finetune, version ")
    assert launched(tmp_path, "run", "--epochs", "none").wait().exit_code == 2
    assert "Error: " in log(tmp_path)
    assert "Traceback" not in log(tmp_path)


@pytest.mark.slow
def test_a_run_with_its_own_number_of_threads_leaves_no_files_behind(tmp_path):
    (tmp_path / "temporary").mkdir()
    job = launched(
        tmp_path, *RUN, "--epochs", "1", "--run-dir", str(tmp_path / "r"),
        FINETUNE_THREADS="1", TMPDIR=str(tmp_path / "temporary"),
    )  # fmt: skip
    assert job.wait().exit_code == 0, log(tmp_path)
    assert json.loads((tmp_path / "r" / "environment.json").read_text())["cores"] == 1
    assert os.environ.get("FINETUNE_THREADS") is None
    assert list((tmp_path / "temporary").iterdir()) == []
    # What TensorFlow has to say when it is imported was for nobody.
    assert "oneDNN" not in log(tmp_path)
    assert "cuda" not in log(tmp_path).lower()


@pytest.mark.slow
def test_it_saves_its_state_when_it_is_told_to_stop(tmp_path):
    job = launched(tmp_path, *RUN, "--epochs", "5000", "--run-dir", str(tmp_path / "r"))
    until(lambda: (tmp_path / "r" / "metrics.jsonl").is_file())
    assert os.getsid(job.pid) == job.pid != os.getsid(0)
    job.end(kill=False)
    assert job.wait().exit_code == 130
    assert "finetune run --resume" in log(tmp_path)


@pytest.mark.slow
def test_it_hears_that_the_batch_has_died(tmp_path):
    job = launched(tmp_path, *RUN, "--epochs", "5000", "--run-dir", str(tmp_path / "r"))
    until(lambda: (tmp_path / "r" / "metrics.jsonl").is_file())
    os.close(job._hold)  # as the kernel does for a process that has gone
    until(lambda: not alive(job.pid))
    assert "finetune run --resume" in log(tmp_path)
    job._hold = os.open(os.devnull, os.O_RDONLY)
    assert job.wait().exit_code == 130


@pytest.mark.slow
def test_a_script_without_a_guard_is_run_once(tmp_path):
    (tmp_path / "script.py").write_text(
        "from pathlib import Path\n"
        "from finetune.batch.executors.local import Forked\n"
        "from finetune.batch.executors.job_process import Launch\n"
        "print('begun', flush=True)\n"
        f"print(Forked(Launch(('--version',), Path({str(tmp_path / 'log')!r}))).wait().exit_code)\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("begun\n0\n", "")


def test_a_kill_is_told(tmp_path):
    job = launched(tmp_path, *RUN, "--epochs", "5000", "--run-dir", str(tmp_path / "r"))
    job.end(kill=True)
    assert job.wait().exit_code == -signal.SIGKILL


@pytest.mark.slow
def test_where_the_process_that_forks_has_died_its_jobs_end_and_the_next_ones_get_another(tmp_path):
    job = launched(tmp_path, *RUN, "--epochs", "5000", "--run-dir", str(tmp_path / "r"))
    until(lambda: (tmp_path / "r" / "metrics.jsonl").is_file())
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    until(lambda: job.poll() is not None)
    assert job.poll().exit_code is None
    assert "has died" in job.poll().lost
    until(lambda: not alive(job.pid))
    assert launched(tmp_path, "--version").wait().exit_code == 0


def jobs(tmp_path, *lines):
    path = tmp_path / "jobs.toml"
    path.write_text('[defaults]\nbackbone = "resnet_v1_demo"\ndata = "demo-target"\n' + "\n".join(lines))
    return read_jobs(path)


def test_jobs_that_want_the_same_features(tmp_path):
    probes = jobs(tmp_path, 'preset = "linear-probe"', "[matrix]", "learning-rate = [0.1, 0.01]", "seed = [0, 1]")
    assert len({features_of(job) for job in probes}) == 1
    assert features_of(probes[0]) is not None
    sizes = jobs(tmp_path, 'preset = "linear-probe"', "[matrix]", "image-size = [16, 32]")
    assert len({features_of(job) for job in sizes}) == 2
    drawn = jobs(tmp_path, 'preset = "linear-probe"', "from-scratch = true", "[matrix]", "seed = [0, 1]")
    assert len({features_of(job) for job in drawn}) == 2
    assert [features_of(job) for job in jobs(tmp_path, "[matrix]", "seed = [0, 1]")] == [None, None]
    uncached = jobs(tmp_path, 'preset = "linear-probe"', 'cache-features = "off"', "[matrix]", "seed = [0, 1]")
    assert {features_of(job) for job in uncached} == {None}
    assert isinstance(probes[0], Job)


def test_the_cores_are_divided_unless_a_job_has_the_machine_to_itself(monkeypatch):
    seen = []
    monkeypatch.setattr("finetune.batch.executors.local.Forked", seen.append)
    local = Local(workers=4, cores=8)
    local.start(Launch(("run",), Path("log")))
    local.start(Launch(("run",), Path("log"), alone=True))
    assert [launch.environment["FINETUNE_THREADS"] for launch in seen] == ["2", "8"]
