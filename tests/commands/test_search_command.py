"""A search as it is typed: real runs of a tiny network, killed in the midst and repeated."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.commands import tiny_backbone, typed

NIGHT = """
[defaults]
backbone = "BACKBONE"
data = "demo-target"
examples = 100
validation = 0.2
image-size = 16
batch-size = 20
epochs = 3
[search]
trials = 12
prune = true
seed = 3
[search.space]
learning-rate = {low = 1e-4, high = 1e-2, log = true}
bn-decay = {low = 0.8, high = 0.99}
"""


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_with_its_trials(tmp_path):
    file, runs = tmp_path / "night.toml", tmp_path / "night"
    file.write_text(NIGHT.replace("BACKBONE", str(tiny_backbone())))
    dry = json.loads(typed(f"batch {file} --dry-run --json").stdout)
    assert [row["name"] for row in dry["jobs"]] == [f"trial-{number:03d}" for number in range(1, 11)]
    assert dry["estimate"]["to_propose"] == 2
    assert not runs.exists()

    command = [sys.executable, "-m", "finetune", "batch", str(file), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as batch:
        deadline = time.monotonic() + 300
        while len(list(runs.glob("*/result.json"))) < 3 or not _under_way(runs):
            assert batch.poll() is None, batch.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        before = {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}
        asked = {path.parent.name: _settings(path.parent) for path in runs.glob("*/config.json")}
        os.kill(batch.pid, signal.SIGKILL)

    result = typed(f"batch {file} --workers 2 --json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert set(summary["counts"]) <= {"done", "pruned"}
    assert sum(summary["counts"].values()) == 12
    assert {name: _settings(runs / name) for name in asked} == asked
    assert {name: (runs / name / "result.json").stat().st_mtime_ns for name in before} == before
    search = summary["search"]
    done = {row["name"]: row["score"] for row in search["table"] if row["state"] == "done"}
    assert search["best"]["score"] == max(done.values()) == summary["jobs"][0]["validation_accuracy"]
    assert set(search["importance"]) == {"learning_rate", "bn_decay"}

    report = typed(f"report {runs} --html {tmp_path / 'page.html'}")
    assert report.exit_code == 0, report.output
    assert search["best"]["command"] in report.output
    assert "PED-ANOVA, from" in report.output
    assert (
        f"Best of 12 trials by validation accuracy: {search['best']['name']}." in (tmp_path / "page.html").read_text()
    )
    again = typed(search["best"]["command"].removeprefix("finetune ") + f" --run-dir {tmp_path / 'again'}")
    assert again.exit_code == 0, again.output
    assert _settings(tmp_path / "again") == _settings(runs / search["best"]["name"])


def _under_way(runs):
    """Whether a trial has finished an epoch and is not done."""
    return any(not (path.parent / "result.json").exists() for path in runs.glob("*/metrics.jsonl"))


def _settings(run):
    found = json.loads((run / "config.json").read_text())
    return {name: found[name] for name in ("learning_rate", "bn_decay", "epochs", "seed")}
