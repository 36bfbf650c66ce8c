"""The clock goes back and forth by a day, and two processes want the same run: neither changes a result."""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from finetune.batch.folder import BatchFolder
from finetune.errors import FinetuneError
from finetune.runs.directory import RunDir
from finetune.training.feature_cache import feature_store
from finetune.training.feature_cache.entry import ID
from tests.soak.killed_process import Killable
from tests.soak.run_content import SETTINGS, content, leftovers
from tests.support.places import ROOT

JUMPS = """
import random, time
own, rng = time.time, random.Random({seed})
time.time = lambda: own() + rng.choice((-86400, 0, 86400))
time.time_ns = lambda: int(time.time() * 1e9)
"""
WALL_CLOCK = {
    "checkpoints/download/transport.py": "Retry-After as a date; the wait is held between 0 and 60 s",
    "finetune/batch/scheduler.py": "when an attempt was started, for people",
    "finetune/training/feature_cache/feature_store.py": "when an entry was used; always the latest",
    "finetune/reporting/rendering.py": "when a page was written, for people",
    "finetune/training/tracking/to_mlflow.py": "what MLflow asks for",
    "finetune/training/tracking/to_tensorboard.py": "what TensorBoard asks for",
}


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    process = Killable(tmp_path_factory.mktemp("clock"))
    yield process
    process.close()


@pytest.fixture(scope="module")
def line(finetune: Killable, backbone: Path) -> str:
    """Of a run; `whole` is one as it should be."""
    options = "--preset linear-probe --cache-features on --tracker tensorboard"
    line = f"run --backbone {backbone} {SETTINGS} {options} --run-dir "
    ended = finetune(line + str(finetune.folder / "whole"))
    assert ended.code == 0, ended.output
    shutil.rmtree(finetune.home)
    return line


def test_no_duration_is_taken_from_a_clock_that_can_be_set() -> None:
    """Who reads the time of day is known by name."""
    readers = set()
    for path in [path for package in ("finetune", "checkpoints") for path in (ROOT / package).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (
                ast.unparse(node) in ("time.time", "time.time_ns") or node.attr in ("now", "utcnow", "today")
            ):
                readers.add(str(path.relative_to(ROOT)))
    assert readers == set(WALL_CLOCK)


SEEDS = [pytest.param(seed, marks=pytest.mark.slow if seed == 1 else pytest.mark.soak) for seed in range(1, 12)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_whose_clock_jumps_at_every_look(finetune: Killable, line: str, seed: int) -> None:
    run, first = finetune.folder / "run", JUMPS.format(seed=seed)
    shutil.rmtree(run, ignore_errors=True)
    stopped = finetune(line + str(run), first=first, kill=(60 + seed, 0))
    assert stopped.killed, stopped.output
    ended = finetune(f"run --resume {run}" if (run / "config.json").exists() else line + str(run), first=first)
    assert ended.code == 0, ended.output
    found, expected = content(run), content(finetune.folder / "whole")
    for one in (found, expected):
        one["result.json"].pop("cached_features")
    assert found == expected
    rows = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    for seconds in [row["seconds"] for row in rows if "seconds" in row] + [result["seconds"], result["train_seconds"]]:
        assert 0 <= seconds < 1000
    assert leftovers(finetune.folder) == []


def test_what_was_used_last_stays_in_the_cache_though_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    now = 1_700_000_000.0
    about = {"shape": [1000], "dtype": "float32", "cut": "pool"}
    ids = np.array([b"%016d" % number for number in range(10)], ID)
    for key, clock in (("a", now), ("b", now + 86_400), ("c", now)):
        monkeypatch.setattr(feature_store.time, "time", lambda clock=clock: clock)
        with feature_store.opened(key, about, ids, budget=10**9) as entry:
            entry.append(ids, np.zeros((10, 1000), np.float32))
    assert [one.key for one in feature_store.entries()] == ["a", "b", "c"]
    with feature_store.opened("d", about, ids, budget=2 * feature_store.entries()[0].size):
        assert sorted(one.key for one in feature_store.entries()) == ["c", "d"]


@pytest.mark.slow
def test_who_holds_a_run_or_a_batch_is_named(finetune: Killable, line: str) -> None:
    run = finetune.folder / "held"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(finetune.folder / "whole", run)
    (run / "result.json").unlink()
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with RunDir(run).locked():
        before = {one: one.read_bytes() for one in run.rglob("*") if one.is_file()}
        ended = finetune(f"run --resume {run}")
        assert (ended.code, ended.output) == (1, f"Error: {run} is in use by {holder}: wait for it, or stop it\n")
        assert {one: one.read_bytes() for one in run.rglob("*") if one.is_file()} == before
    place = BatchFolder(finetune.folder / "place")
    words = re.escape(f"'finetune batch' ({holder})")
    with place.locked(shared=False), pytest.raises(FinetuneError, match=words), place.locked(shared=False):
        pass


@pytest.mark.parametrize("text", ["", "4194305 gone\n", "7", "\x1b[2J 1\n", "x" * 10_000])
def test_the_note_of_a_dead_process_holds_nobody_up(tmp_path: Path, text: str) -> None:
    (tmp_path / ".lock").write_text(text)
    with RunDir(tmp_path).locked():
        pass
    assert (tmp_path / ".lock").read_text() == f"{os.getpid()} {socket.gethostname()}\n"


@pytest.mark.soak
def test_two_that_start_one_run_and_two_that_resume_it(finetune: Killable, line: str) -> None:
    run = finetune.folder / "both"
    for words in (line + str(run), f"run --resume {run}"):
        two = [
            subprocess.Popen(
                [sys.executable, "-m", "finetune", *words.split()],
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "FINETUNE_HOME": str(finetune.home)},
            )
            for _ in range(2)
        ]
        said = [one.communicate(timeout=200)[1] for one in two]
        assert 0 in [one.returncode for one in two], said
        for one, text in zip(two, said, strict=True):
            assert one.returncode == 0 or len(re.findall("^Error: ", text, re.MULTILINE)) == 1, text
            # "by another process" where the first has the lock and has not yet written its number into it
            assert one.returncode == 0 or "is in use by " in text or "is already there" in text
        found, expected = content(run), content(finetune.folder / "whole")
        for each in (found, expected):
            each["result.json"].pop("cached_features")
        assert found == expected
        (run / "result.json").unlink()
        shutil.rmtree(run)
        assert finetune(line + str(run), kill=(80, 0)).killed
