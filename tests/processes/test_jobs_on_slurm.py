"""The script of `--on slurm --print`, and a run of several tasks, on a real Slurm; skipped where there is none."""

import json
import subprocess
import sys
import time

import pytest

from finetune.runs.directory import RunDir
from tests.support.one_node_slurm import Slurm, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"no {', '.join(missing())} here: apt-get install slurm-wlm munge"),
]

FINETUNE = (sys.executable, "-m", "finetune")
RUN = ("--backbone", "resnet_v1_demo", "--data", "demo-target", "--examples", "100", "--image-size", "16")
NIGHT = """
[defaults]
backbone = "resnet_v1_demo"
data = "demo-target"
examples = 100
image-size = 16
batch-size = 20
epochs = 30
deterministic = true
[matrix]
learning-rate = [0.003, 0.001]
"""
JOBS = ("learning_rate_0.003", "learning_rate_0.001")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    one = Slurm(tmp_path_factory.mktemp("slurm") / "node")
    yield one
    one.close()


def figures(run):
    return json.loads((run / "result.json").read_text())["test"]


def submitted(slurm, place, *options):
    script = subprocess.run(
        [*FINETUNE, "batch", "night.toml", "--on", "slurm", "--print"], cwd=place, capture_output=True, text=True
    )
    assert script.returncode == 0, script.stderr
    (place / "night.sh").write_text(script.stdout)
    asked = subprocess.run(["bash", "night.sh", *options], cwd=place, env=slurm.env, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr


def logs(place):
    return {path.name: path.read_text() for path in (place / "night" / ".batch").glob("slurm-*.log")}


def until(happened):
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def epochs(run):
    return (run / "metrics.jsonl").read_text().count("\n") if (run / "metrics.jsonl").exists() else 0


def test_an_array_of_jobs_is_told_to_stop_and_goes_on_when_submitted_again(slurm, tmp_path):
    """By the signal that comes before the time limit, and by being put back into the queue."""
    (tmp_path / "night.toml").write_text(NIGHT)
    here = subprocess.run(
        [*FINETUNE, "batch", "night.toml", "--runs-dir", "here", "--workers", "2", "--quiet"], cwd=tmp_path
    )
    assert here.returncode == 0
    submitted(slurm, tmp_path, "--time=10")
    first, second = (tmp_path / "night" / name for name in JOBS)
    until(lambda: epochs(first) >= 2 and epochs(second) >= 2)
    tasks = [line.split()[0] for line in slurm.waiting() if "RUNNING" in line]
    assert len(tasks) == 2, slurm.waiting()
    slurm.said("scancel", "--batch", "--signal=TERM", next(one for one in tasks if one.endswith("_1")))
    slurm.said("scontrol", "requeue", next(one for one in tasks if one.endswith("_2")))
    until(lambda: not any("_1 RUNNING" in line for line in slurm.waiting()))
    assert RunDir.open(first).status == "interrupted", logs(tmp_path)
    slurm.said("scontrol", "update", f"JobId={next(one for one in tasks if one.endswith('_2'))}", "StartTime=now")
    slurm.until_done(240)
    assert figures(second) == figures(tmp_path / "here" / JOBS[1])
    summary = json.loads((tmp_path / "night" / "summary.json").read_text())
    assert summary["counts"] == {"done": 1, "interrupted": 1}, logs(tmp_path)

    submitted(slurm, tmp_path, "--time=10")
    assert "--array=1-1" in (tmp_path / "night.sh").read_text()
    slurm.until_done(240)
    assert figures(first) == figures(tmp_path / "here" / JOBS[0])
    summary = json.loads((tmp_path / "night" / "summary.json").read_text())
    assert summary["counts"] == {"done": 2}, logs(tmp_path)


def test_one_run_of_two_tasks(slurm, tmp_path):
    """`srun` on what was reserved; the same as one process with the same batches."""
    run = (*FINETUNE, "run", *RUN, "--batch-size", "20", "--epochs", "2", "--quiet", "--run-dir")
    alone = subprocess.run([*run, "alone"], cwd=tmp_path)
    assert alone.returncode == 0
    both = subprocess.run(
        ["srun", "--ntasks=2", "--time=5", *run, "both", "--distribute", "multi-worker", "--bn-sync"],
        cwd=tmp_path, env=slurm.env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert both.returncode == 0, both.stderr
    assert json.loads((tmp_path / "both" / "environment.json").read_text())["distribution"]["workers"] == 2
    for mode in ("is_training_false", "is_training_true"):
        ours, theirs = figures(tmp_path / "both")[mode], figures(tmp_path / "alone")[mode]
        assert ours["examples"] == theirs["examples"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
