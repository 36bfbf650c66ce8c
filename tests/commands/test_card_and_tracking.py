"""What a run writes for others: model card, metrics.csv, and what trackers are told, also across an interruption."""

import contextlib
import csv
import io
import json
import re
import sqlite3

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finetune.data.load_data import load_data
from finetune.reporting.record import read_record
from tests.support.commands import stop_at, typed


def test_metrics_csv_says_what_metrics_jsonl_says(finished):
    run = finished[0]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    for row, cells in zip(rows, table, strict=True):
        assert {name: cell for name, cell in cells.items() if cell} == {
            name: str(value) for name, value in row.items() if value is not None
        }


def test_the_card_says_what_the_model_is(finished):
    run, printed = finished
    text = (run / "MODEL_CARD.md").read_text()
    assert text.startswith("---\nlibrary_name: keras\n")
    test = json.loads(printed.stdout)["test"]
    for way in ("is_training_false", "is_training_true"):
        one = test[way]
        assert f"{one['accuracy']:.1%} ± {one['standard_error']:.1%} |" in text
    load_data = json.loads((run / "load.json").read_text())
    assert load_data["sha256"] in text
    assert json.loads((run / "result.json").read_text())["data_fingerprint"] in text
    for name in json.loads((run / "data.json").read_text())["class_names"]:
        assert f"| {name} |" in text
    for heading in (
        "Results",
        "Limits",
        "Data",
        "Weights",
        "BatchNorm",
        "Training",
        "How to use it",
        "How to repeat it",
    ):
        assert f"\n## {heading}\n" in text
    assert "finetune run --config config.json" in text


def test_the_cards_code_classifies_a_test_image_as_the_run_did(finished, tmp_path, monkeypatch):
    run = finished[0]
    code = re.search(r"```python\n(.*?)```", (run / "MODEL_CARD.md").read_text(), re.DOTALL)[1]
    said, names = np.load(run / "predictions.npz"), json.loads((run / "result.json").read_text())["class_names"]
    surest = int(said["top_probabilities"][:, 0].argmax())
    Image.fromarray(load_data(read_record(run).config).test.images[surest]).save(tmp_path / "photo.png")
    monkeypatch.chdir(run)
    code = code.replace('"photo.jpg"', repr(str(tmp_path / "photo.png")))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    share, _, name = out.getvalue().splitlines()[0].partition("% ")
    assert name == names[said["top_classes"][surest, 0]]
    # Pillow and TensorFlow differ a little in how they make an image smaller.
    assert float(share) / 100 == pytest.approx(said["top_probabilities"][surest, 0], abs=0.1)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_in_the_same_logs(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb" / name))
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(6, patch)
        stopped = typed(f"run TINY --quiet --run-dir {run} --tracker tensorboard --tracker mlflow --tracker wandb")
    assert stopped.exit_code == 130, stopped.output
    resumed = typed(f"run --resume {run} --quiet")
    assert resumed.exit_code == 0, resumed.output
    assert "warning" not in resumed.stderr

    read = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0})
    read.Reload()
    steps = {tag: [event.step for event in read.Tensors(tag)] for tag in read.Tags()["tensors"]}
    assert steps["loss/batch"] == list(range(1, 13))
    assert steps["loss/train"] == steps["accuracy/validation"] == [4, 8, 12]
    assert steps["accuracy/test"] == [12]
    moving = [tag for tag in steps if tag.startswith("bn_moving_variance/")]
    assert len(moving) == json.loads((run / "result.json").read_text())["bn"]["layers"]
    assert all(steps[tag] == [4, 8, 12] for tag in moving)

    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        [(status,)] = store.execute("select status from runs").fetchall()
        told = store.execute("select step from metrics where key = 'loss/train' order by step").fetchall()
    assert status == "FINISHED"
    assert told == [(4,), (8,), (12,)]
    begun = {path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")}
    assert begun == {json.loads((run / "tracking.json").read_text())["wandb"]["id"]}
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2
    [files] = {path.parent for path in (run / "wandb").glob("offline-run-*/files/MODEL_CARD.md")}
    assert {"config.json", "result.json", "metrics.csv"} <= {path.name for path in files.iterdir()}

    kept = {path.name for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert {"config.json", "result.json", "metrics.csv", "MODEL_CARD.md"} <= kept


@pytest.mark.parametrize(("tracker", "words"), [("tensorbord", "did you mean tensorboard"), ("mlflow=", "no place")])
def test_a_wrong_tracker_is_refused_before_anything_is_made(tmp_path, tracker, words):
    result = typed(f"run TINY --quiet --run-dir {tmp_path / 'run'} --tracker {tracker}")
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_wandb_that_cannot_be_opened_leaves_no_run_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "never")
    result = typed(f"run TINY --quiet --run-dir {tmp_path / 'run'} --tracker wandb")
    assert result.exit_code == 1, result.output
    assert "WANDB_MODE is 'never': expected one of online, offline, disabled" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_cannot_be_opened_leaves_no_run_behind(tmp_path):
    result = typed(f"run TINY --quiet --run-dir {tmp_path / 'run'} --tracker mlflow=nonsense://x")
    assert result.exit_code == 1, result.output
    assert "--tracker mlflow=nonsense://x cannot be opened" in result.stderr
    assert list(tmp_path.iterdir()) == []
