"""`finetune batch` as it is typed: real runs on a tiny task, every option, and what is said of bad input."""

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time

import pytest

from finetune.batch import call
from tests.support.commands import tiny_backbone, tree, typed

FINETUNE = (sys.executable, "-m", "finetune")
NIGHT = """
[defaults]
backbone = "resnet_v1_demo"
data = "demo-target"
examples = 100
image-size = 16
batch-size = 20
epochs = 2
[matrix]
learning-rate = [0.003, 0.001]
exclude = [{learning_rate = 0.001}]
"""


BAD_JOB = '[[job]]\nname = "bad"\nfreeze = ["nothing"]\n'


def on_tiny(jobs):
    return jobs.replace("resnet_v1_demo", str(tiny_backbone()))


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A batch that has ended: one job is done, one has failed."""
    folder = tmp_path_factory.mktemp("batch")
    (folder / "night.toml").write_text(on_tiny(NIGHT) + BAD_JOB)
    return folder, typed(f"batch {folder / 'night.toml'} --workers 2 --json")


@pytest.mark.slow
def test_a_batch_from_file_to_table(night):
    folder, result = night
    runs = folder / "night"
    assert result.exit_code == 1, result.output
    summary = json.loads(result.stdout)
    assert summary == json.loads((runs / "summary.json").read_text())
    assert summary["counts"] == {"done": 1, "failed": 1}
    assert summary["ranked_by"] == "validation_accuracy"
    done, bad = summary["jobs"]
    test = json.loads((runs / done["name"] / "result.json").read_text())["test"]
    assert (done["name"], done["rank"], done["verdict"]) == ("learning_rate_0.003", 1, "best")
    assert done["test_accuracy"] == test["is_training_false"]["accuracy"]
    assert done["test_accuracy_batch_statistics"] == test["is_training_true"]["accuracy"]
    config = json.loads((runs / done["name"] / "config.json").read_text())
    assert (config["epochs"], config["batch_size"], config["learning_rate"]) == (2, 20, 0.003)
    cores = json.loads((runs / done["name"] / "environment.json").read_text())["cores"]
    assert cores == max(1, len(os.sched_getaffinity(0)) // 2)
    assert (bad["name"], bad["rank"], bad["state"]) == ("bad", None, "failed")
    assert bad["error"].startswith("--freeze pattern 'nothing' matches no layer")
    assert sorted(path.name for path in runs.iterdir()) == [
        *(".batch", "learning_rate_0.003", "summary.csv", "summary.json"),
    ]
    for words in (
        "2 jobs in",
        "2 at once",
        "done         learning_rate_0.003  validation ",
        "failed       bad  --freeze",
    ):
        assert words in result.stderr


def test_a_second_call_has_nothing_to_do(night):
    folder, _ = night
    before = tree(folder / "night" / "learning_rate_0.003")
    again = typed(f"batch {folder / 'night.toml'} --only 1")
    assert again.exit_code == 0
    assert again.stderr == "1 of 1 job done already\n"
    for words in ("learning_rate_0.003", "best", "failed --freeze pattern", "ranked by validation accuracy", "1 done"):
        assert words in again.stdout
    quiet = typed(f"batch {folder / 'night.toml'} --only learning_rate_0.003 --quiet")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert quiet.stdout == again.stdout
    assert tree(folder / "night" / "learning_rate_0.003") == before
    summary = typed(f"batch {folder / 'night.toml'} --summary-only")
    assert (summary.exit_code, summary.stdout) == (1, again.stdout)


def test_dry_run_resolves_and_measures(night):
    folder, _ = night
    before = tree(folder)
    result = typed(f"batch {folder / 'night.toml'} --seeds 3 --only 1 --only 3 --dry-run --workers 2 --json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert [(row["name"], row["state"], row["images"], row["steps"]) for row in plan["jobs"]] == [
        *(("learning_rate_0.003", "done", 95, 8), ("learning_rate_0.003-seed_2", "pending", 95, 8)),
    ]
    assert plan["jobs"][1]["config"]["seed"] == 2
    estimate = plan["estimate"]
    assert [estimate[name] for name in ("to_run", "steps", "images", "pixels")] == [1, 8, 190, 190 * 16 * 16]
    assert "measured jobs of this batch" in estimate["words"]
    assert estimate["seconds"] > 0
    table = typed(f"batch {folder / 'night.toml'} --dry-run --runs-dir {folder / 'elsewhere'}")
    assert "2 to run: 16 steps, 380 images" in table.stdout
    assert "time is not estimated before a job of this batch has been measured" in table.stdout
    assert tree(folder) == before


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """A command that must fail at once, saying the words, once, and leaving nothing behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "night.toml").write_text(NIGHT)
    (tmp_path / "many.toml").write_text(NIGHT + f"seed = {list(range(101))}")
    (tmp_path / "typo.toml").write_text(NIGHT.replace("resnet_v1_demo", "resnet_v1_demoo"))
    (tmp_path / "data.toml").write_text(NIGHT.replace("demo-target", "demo-taget"))
    (tmp_path / "greedy.toml").write_text(NIGHT.replace("100", "5000"))
    (tmp_path / "file").touch()

    def check(line, exit_code, *words):
        before = tree(tmp_path)
        result = typed(line)
        assert result.exit_code == exit_code, result.output
        assert result.stdout == ""
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1, result.stderr
        for word in ("Error: ", *words):
            assert word in result.stderr
        assert tree(tmp_path) == before

    return check


BAD = [
    ("batch", 2, "JOBS.toml", "finetune batch --help"),
    ("batch nowhere.toml", 1, "nowhere.toml is missing"),
    ("batch many.toml", 2, "101 jobs", "--yes-really 101"),
    ("batch many.toml --yes-really 100", 2, "--yes-really 101"),
    ("batch night.toml --seeds 0", 2, "--seeds is 0", "1 to 1000"),
    ("batch night.toml --workers 0", 2, "--workers"),
    ("batch night.toml --only learning_rate_0.03", 2, "did you mean learning_rate_0.003?", "--dry-run"),
    ("batch night.toml --runs-dir file", 2, "file is a file", "--runs-dir"),
    ("batch night.toml --summary-only", 1, "night does not exist", "no job of night.toml has run"),
    ("batch night.toml --summary-only --dry-run", 2, "--summary-only", "one of them"),
    ("batch night.toml --on moon", 2, "'moon'", "'slurm'"),
    ("batch night.toml --on slurm", 2, "--on slurm and --print go together", "bash night.sh"),
    ("batch night.toml --print", 2, "--on slurm and --print go together"),
    ("batch night.toml --on slurm --print --json", 2, "--print writes a script", "--json"),
    ("batch night.toml --on slurm --print --gpus-per-job 0.5", 2, "0.5", "a whole number of GPUs"),
    ("batch night.toml --address 1.2.3.4:5", 2, "--address is for --on ray"),
    ("batch night.toml --cpus-per-job 2", 2, "--cpus-per-job is for --on ray and slurm"),
    ("batch typo.toml --dry-run", 2, "job learning_rate_0.003: unknown backbone 'resnet_v1_demoo'", "did you mean"),
    ("batch data.toml --dry-run", 2, "job learning_rate_0.003: unknown data 'demo-taget'", "did you mean demo-target?"),
    ("batch greedy.toml --dry-run", 2, "job learning_rate_0.003: 5000 examples", "2000"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case[0])
def test_one_message_and_nothing_left_behind(case, refused):
    refused(*case)


def test_nobody_may_write_there(refused, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused("batch night.toml", 1, "no permission to write in", "--runs-dir")


def test_what_no_job_could_begin_with_stops_the_batch_before_it_begins(refused, monkeypatch):
    def here(command, **options):
        """The check's own process, in this one."""
        result = typed(shlex.join(command[3:]))
        return subprocess.CompletedProcess(command, result.exit_code, result.stdout, result.stderr)

    monkeypatch.setattr(call.subprocess, "run", here)
    refused("batch data.toml", 2, "Error: job learning_rate_0.003: unknown data 'demo-taget': did you mean")


def test_the_slurm_script_runs_the_same_jobs(tmp_path, night):
    """Without Slurm: a stand-in for sbatch records what is submitted; the tasks are run one by one."""
    folder, _ = night
    place = tmp_path / "a folder"
    place.mkdir()
    (place / "night.toml").write_text(on_tiny(NIGHT) + BAD_JOB)
    result = typed(f"batch '{place / 'night.toml'}' --on slurm --print --workers 3 --cpus-per-job 2 --gpus-per-job 1")
    assert result.exit_code == 0, result.output
    assert list(place.iterdir()) == [place / "night.toml"]
    script = place / "night.sh"
    script.write_text(result.stdout)
    header = [line for line in result.stdout.splitlines() if line.startswith("#SBATCH")]
    for option in ("--array=1-2%3", "--cpus-per-task=2", "--gpus-per-task=1", "--job-name=finetune-night"):
        assert f"#SBATCH {option}" in header
    subprocess.run(["bash", "-n", script], check=True)

    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/bash\nprintf "%s\\n" "$@" --- >> "$(dirname "$0")/asked"\necho "42;cluster"\n')
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    there = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    submit = {**there, "PATH": f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", script, "--time=1:00"], check=True, env=submit, stdout=subprocess.DEVNULL)
    first, second = (part.split("\n") for part in (sbatch.parent / "asked").read_text().split("\n---\n")[:2])
    assert first == ["--parsable", "--time=1:00", str(script)]
    assert "--dependency=afterany:42" in second
    assert second[-1].startswith("--wrap=")
    assert shlex.split(second[-1].removeprefix("--wrap="))[-1] == "--summary-only"

    # The runs of the other batch stand in for what the first task would train.
    subprocess.run(["cp", "-r", f"{folder / 'night'}/.", place / "night"], check=True)
    for name in ("summary.csv", "summary.json"):
        (place / "night" / name).unlink()
    task = subprocess.run(
        ["bash", script], env={**there, "SLURM_ARRAY_TASK_ID": "1"}, capture_output=True, text=True, timeout=300
    )
    assert task.returncode == 0, task.stderr
    assert task.stderr == "1 of 1 job done already\n"
    last = subprocess.run(["bash", "-c", second[-1].removeprefix("--wrap=")], env=there, capture_output=True, text=True)
    assert last.returncode == 1, last.stderr
    assert json.loads((place / "night" / "summary.json").read_text())["counts"] == {"done": 1, "failed": 1}


@pytest.mark.slow
def test_killed_children_and_a_killed_parent_change_nothing(tmp_path):
    """The short form, with a stand-in for the runs, is in tests/unit/batch."""
    text = NIGHT.replace("epochs = 2", "epochs = 12\ndeterministic = true").replace("exclude", "#")
    (tmp_path / "night.toml").write_text(text)
    whole = subprocess.Popen([*FINETUNE, "batch", "night.toml", "--runs-dir", "whole", "--quiet"], cwd=tmp_path)
    assert whole.wait(300) == 0
    command = [*FINETUNE, "batch", "night.toml", "--quiet"]
    parent = subprocess.Popen(command, cwd=tmp_path)
    first = tmp_path / "night" / "learning_rate_0.003"
    _wait_for(first / "metrics.jsonl")
    os.kill(_holder(first), signal.SIGKILL)
    _wait_for(tmp_path / "night" / "learning_rate_0.001" / "metrics.jsonl")
    parent.kill()
    parent.wait()
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("learning_rate_0.003", "learning_rate_0.001"):
        ours, theirs = (
            json.loads((tmp_path / place / name / "result.json").read_text())["test"] for place in ("night", "whole")
        )
        assert ours == theirs, name
    assert sum(row["attempts"] for row in json.loads(done.stdout)["jobs"]) == 4


def _wait_for(path):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def _holder(run):
    """The process whose command names this run."""
    for folder in os.listdir("/proc"):
        if folder.isdigit() and int(folder) != os.getpid():
            try:
                with open(f"/proc/{folder}/cmdline", "rb") as file:
                    words = file.read().decode().replace("\0", " ").split()
            except OSError:
                continue
            if "run" in words and any(os.path.basename(word) == run.name for word in words):
                return int(folder)
    raise AssertionError(f"nobody works on {run}")
