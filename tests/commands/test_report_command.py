"""`finetune report`: the figures of a real run, runs side by side, and what will not do."""

import base64
import errno
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from finetune.data.load_data import load_data
from finetune.evaluation.predictions import Predictions
from finetune.reporting.record import read_record
from tests.support.commands import typed

HOSTILE = "<script>alert(1)</script>\x1b[2J"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run that a test may change."""
    return shutil.copytree(finished[0], tmp_path / "run")


def edited(path, **changes):
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


def reported(line):
    result = typed(f"report {line}")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_figures_agree_with_the_result(finished):
    path, printed = finished
    expected = json.loads(printed.stdout)["test"]["is_training_false"]
    [one] = reported(f"{path} --json")["runs"]
    table = np.array(one["confusion"])
    assert table.sum() == expected["examples"]
    assert np.trace(table) == expected["correct"]
    assert sum(row["images"] for row in one["classes"]) == expected["examples"]
    assert one["macro_f1"] == pytest.approx(np.mean([row["f1"] for row in one["classes"]]))
    said = np.load(path / "predictions.npz")
    assert -said["label_log_probability"].astype(float).mean() == pytest.approx(expected["loss"], rel=1e-5)
    sure = [row["probability"] for row in one["mistakes"]]
    assert sure == sorted(sure, reverse=True)
    for row in one["mistakes"]:
        assert one["classes"][said["labels"][row["image"]]]["name"] == row["true"] != row["predicted"]
    assert sum(bin_["images"] for bin_ in one["calibration"]["bins"]) == expected["examples"]


@pytest.mark.slow
def test_neither_tensorflow_nor_data_is_needed(run, tmp_path):
    edited(run / "config.json", data="npz-that-is-gone.npz")
    program = (
        "import sys; from finetune.cli import main\n"
        f"sys.argv = ['finetune', 'report', {str(run)!r}, '--html', {str(tmp_path / 'page.html')!r}]\n"
        "try: main()\n"
        "finally: assert not {'tensorflow', 'keras'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "the mistakes are without pictures" in done.stdout
    assert "expected calibration error" in done.stdout
    assert "data:image" not in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_a_run_without_predictions_is_scored_once_and_keeps_them(run, finished):
    (run / "predictions.npz").unlink()
    result = typed(f"report {run}")
    assert result.exit_code == 0, result.output
    assert "has no predictions.npz: scoring its test images" in result.stderr
    again, before = (np.load(path / "predictions.npz") for path in (run, finished[0]))
    assert np.array_equal(again["labels"], before["labels"])
    assert again["top_probabilities"] == pytest.approx(before["top_probabilities"], abs=1e-4)
    assert "scoring" not in typed(f"report {run}").stderr


def test_pictures_are_the_test_images_themselves(run, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    assert typed(f"report {run} --html {page} --mistakes 3").exit_code == 0
    html = page.read_text()
    assert html.count("data:image/png;base64,") == html.count("data:image/jpeg;base64,") == 3
    assert "Grad-CAM of\nresnet_v1_demo.block3." in html
    with monkeypatch.context() as patch:  # the run keeps them: no network is needed for the next page
        patch.setattr("finetune.inference.grad_cam.heat_maps_of_run", None)
        assert typed(f"report {run} --html {tmp_path / 'again.html'} --mistakes 2").exit_code == 0
    assert (tmp_path / "again.html").read_text().count("data:image/jpeg;base64,") == 2
    assert typed(f"report {run} --html {tmp_path / 'without.html'} --mistakes 2 --no-heat-maps").exit_code == 0
    assert "data:image/jpeg" not in (tmp_path / "without.html").read_text()
    [one] = reported(f"{run} --json --mistakes 3")["runs"]
    tested = load_data(read_record(run).config).test.images
    shown = [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^\"]+)", html)]
    for row, picture in zip(one["mistakes"], shown, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture))), tested[row["image"]])


def test_names_cannot_steer_a_terminal_or_a_page(run, tmp_path):
    names = [HOSTILE, *json.loads((run / "result.json").read_text())["class_names"][1:]]
    edited(run / "result.json", class_names=names)
    edited(run / "data.json", class_names=names, source=HOSTILE)
    result = typed(f"report {run} --html {tmp_path / 'page.html'}")
    assert result.exit_code == 0, result.output
    html = (tmp_path / "page.html").read_text()
    for text in (result.output, html):
        assert "\x1b" not in text
        assert "alert(1)" in text
    assert "<script" not in html


def test_runs_side_by_side_with_seeds_pooled_and_noise_told(finished, interrupted, tmp_path):
    first = finished[0]
    twin, worse = (shutil.copytree(first, tmp_path / name) for name in ("twin", "worse"))
    edited(twin / "config.json", seed=1)
    edited(worse / "config.json", learning_rate=0.1)
    said = dict(np.load(first / "predictions.npz"))
    right = np.flatnonzero(said["top_classes"][:, 0] == said["labels"])[:150]
    said["top_classes"][right] = (said["top_classes"][right] + 1) % 10
    np.savez(worse / "predictions.npz", **said)
    test = json.loads((first / "result.json").read_text())["test"]
    test["is_training_false"]["accuracy"] -= 0.15
    edited(worse / "result.json", test=test)

    found = reported(f"{first} {worse} {twin} {interrupted} --json")
    assert len({row["name"] for row in found["runs"]}) == 4
    best, second = found["groups"]
    assert best["name"].endswith("(2 seeds)")
    assert (best["verdict"], second["verdict"]) == ("best", "-15.0 points")
    assert best["test_accuracy_spread"] == 0
    assert found["ranked_by"] == "validation_accuracy"
    assert found["runs"][-1]["status"] == "interrupted"
    assert found["runs"][-1]["rank"] is None
    assert set(found["differs"]) == {
        "learning_rate",
        "seed",
        "backbone",
        "preprocess",
    }  # the last run has another network

    alone = reported(f"{first} {worse} --json")["groups"][1]
    assert (alone["gained"], alone["lost"]) == (0, 150)
    printed = typed(f"report {first} {worse} {interrupted}")
    assert printed.exit_code == 0, printed.output
    assert "-15.0 points" in printed.stdout
    assert f"continue it with: finetune run --resume {interrupted}" in printed.stdout


def test_ranked_by_the_score_that_all_runs_select_by(finished, tmp_path):
    """The second run has the better macro F1 and the worse accuracy; each score decides where it is named."""
    runs = [shutil.copytree(finished[0], tmp_path / name) for name in ("one", "two")]
    for seed, (run, accuracy, f1) in enumerate(zip(runs, (0.9, 0.8), (0.3, 0.5), strict=True)):
        edited(run / "config.json", select_by="macro-f1", learning_rate=0.1 + seed)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            if row["kind"] == "epoch":
                row |= {"validation_accuracy": accuracy, "validation_macro_f1": f1}
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = f"{runs[0]} {runs[1]}"
    found = reported(f"{line} --json")
    test = json.loads(finished[1].stdout)["test"]["is_training_false"]
    assert (found["ranked_by"], [row["name"] for row in found["runs"]]) == ("validation_macro_f1", ["two", "one"])
    assert [one["validation_selected"] for one in found["groups"]] == [0.5, 0.3]
    assert found["groups"][0]["test_selected"] == pytest.approx(test["macro_f1"])
    assert "ranked by validation macro-f1; the test macro-f1" in typed(f"report {line}").stdout
    edited(runs[0] / "config.json", select_by="loss")
    found = reported(f"{line} --json")
    assert (found["ranked_by"], [row["name"] for row in found["runs"]]) == ("validation_accuracy", ["one", "two"])


def test_other_test_images_are_not_compared(run, finished):
    said = dict(np.load(run / "predictions.npz"))
    said["labels"][:20] = (said["labels"][:20] + 1) % 10
    correct = int((said["labels"] == said["top_classes"][:, 0]).sum())
    np.savez(run / "predictions.npz", **said)
    test = json.loads((run / "result.json").read_text())["test"]
    test["is_training_false"] |= {"accuracy": correct / 1000, "correct": correct}
    edited(run / "result.json", test=test, data_fingerprint="another")
    edited(run / "config.json", learning_rate=0.5)
    found = reported(f"{finished[0]} {run} --json")
    assert found["groups"][1]["verdict"] == "another test set"
    assert "cannot be compared" in found["remarks"][0]


def test_a_batch_stands_for_its_finished_runs(finished, tmp_path):
    batch = tmp_path / "batch"
    for name in ("a", "b"):
        shutil.copytree(finished[0], batch / name)
    jobs = [{"name": "b", "state": "done"}, {"name": "a", "state": "done"}, {"name": "c", "state": "failed"}]
    (batch / "summary.json").write_text(json.dumps({"jobs": jobs}))
    found = reported(f"{batch} --json")
    assert sorted(row["name"] for row in found["runs"]) == ["a", "b"]
    shutil.rmtree(batch / "a")
    result = typed(f"report {batch}")
    assert result.exit_code == 1
    assert f"{batch}/a is missing" in result.stderr
    (batch / "summary.json").write_text(json.dumps({"jobs": [{"name": "../elsewhere", "state": "done"}]}))
    assert typed(f"report {batch}").exit_code == 1


@pytest.mark.slow
def test_a_run_that_only_may_be_read_is_reported(run, monkeypatch):
    (run / "predictions.npz").unlink()

    def refuse(self, path):
        raise PermissionError(errno.EACCES, "no", str(path))

    monkeypatch.setattr(Predictions, "save", refuse)
    result = typed(f"report {run} --quiet")
    assert result.exit_code == 0, result.output
    assert not (run / "predictions.npz").exists()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda run: (run / "predictions.npz").write_bytes(b"PK"), "predictions.npz is damaged"),
        (lambda run: edited(run / "result.json", bn={}), "'bn.layers' is missing"),
        (lambda run: edited(run / "result.json", test=[]), "'test' is no object"),
        (lambda run: (run / "bn.json").write_text("{}"), "'verdict' is missing"),
        (lambda run: (run / "metrics.jsonl").write_text("{"), "metrics.jsonl is not JSON lines"),
        (lambda run: edited(run / "freeze.json", stages=[{"stage": 1}]), "'stages[0].stage' is"),
        (lambda run: (run / "data.json").write_text("[]"), "data.json holds a JSON list"),
    ],
)
def test_damaged_files_are_one_clear_error(run, break_it, words):
    break_it(run)
    result = typed(f"report {run}")
    assert result.exit_code == 1, result.output
    assert words in result.stderr.replace("\\", "")
    assert result.stderr.count("\n") == 1
    assert str(run) in result.stderr


def test_predictions_that_are_of_another_model(run):
    said = dict(np.load(run / "predictions.npz"))
    said["top_classes"] = (said["top_classes"] + 1) % 10
    np.savez(run / "predictions.npz", **said)
    result = typed(f"report {run}")
    assert result.exit_code == 1
    assert "delete predictions.npz to score again" in result.stderr


def test_wrong_use(finished, tmp_path):
    run = finished[0]
    (tmp_path / "there.html").write_text("mine")
    for line, code, words in (
        ("", 2, "missing RUN"),
        (f"{run} {run}", 2, "comes twice"),
        (f"{run}/model.keras", 2, f"give {run}"),
        (f"{tmp_path / 'nothing'}", 1, "there is nothing of that name"),
        (f"{tmp_path}", 1, "is no run and no batch"),
        (f"{run} --html {tmp_path / 'there.html'}", 2, "is not overwritten"),
        (f"{run} --mistakes -1", 2, "--mistakes"),
    ):
        result = typed(f"report {line}")
        assert result.exit_code == code, (line, result.output)
        assert words in result.stderr, line
    assert (tmp_path / "there.html").read_text() == "mine"
