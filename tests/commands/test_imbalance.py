"""Weights of classes, scores by class and thresholds, from the command to the files and the report."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from finetune.data import load_data
from finetune.inference.predict import predict_images
from finetune.runs.directory import RunDir
from tests.support.commands import stop_at, typed


def printed(line):
    result = typed(f"{line} --json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
def test_a_file_of_weights_is_kept_as_numbers_and_not_needed_again(tmp_path):
    names, file, run = load_data._GENERATED["demo-target"]().class_names, tmp_path / "weights.csv", tmp_path / "run"
    weights = {name: 1.0 + place for place, name in enumerate(names)}
    file.write_text("".join(f"{name},{weight}\n" for name, weight in weights.items()))
    options = f"--class-weights {file} --loss focal --patience 9 --select-by macro-f1 --no-recalibrate-at-end"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(8, patch)
        assert typed(f"run TINY --validation 0.2 --quiet --run-dir {run} {options}").exit_code == 130
    file.unlink()
    printed(f"run --resume {run}")
    config, result = (json.loads((run / name).read_text()) for name in ("config.json", "result.json"))
    assert config["class_weights"] == result["class_weights"] == weights
    assert (config["focal_gamma"], config["select_by"]) == (2.0, "macro-f1")
    best = max(RunDir.open(run).epochs(), key=lambda row: row["validation_macro_f1"])
    for name in ("accuracy", "macro_f1", "balanced_accuracy", "loss"):
        assert result["validation"][name] == pytest.approx(best[f"validation_{name}"], rel=1e-5)
    assert [one["class"] for one in result["thresholds"]] == list(names)


def test_scores_by_class_are_the_same_everywhere(finished):
    run, said = finished
    test = json.loads(said.stdout)["test"]["is_training_false"]
    [reported] = printed(f"report {run}")["runs"]
    for name in ("macro_f1", "balanced_accuracy"):
        assert reported[name] == pytest.approx(test[name], abs=1e-6)
        assert f"{test[name]:.1%}" in (run / "MODEL_CARD.md").read_text()
    thresholds = json.loads((run / "result.json").read_text())["thresholds"]
    assert [one["threshold"] for one in reported["classes"]] == [one["threshold"] for one in thresholds]
    text = typed(f"report {run}").stdout
    assert "threshold" in text
    assert f"macro F1 {test['macro_f1']:.1%}" in text


@pytest.mark.slow
def test_evaluate_has_the_same_scores(finished):
    run, said = finished
    test = json.loads(said.stdout)["test"]["is_training_false"]
    evaluated = printed(f"evaluate {run}")
    for name in ("macro_f1", "balanced_accuracy"):
        assert evaluated[name] == pytest.approx(test[name], abs=1e-6)


@pytest.mark.slow
def test_thresholds_decide_each_class_alone(finished, tmp_path):
    run = finished[0]
    rows = json.loads((run / "result.json").read_text())["thresholds"]
    least = np.array([np.inf if one["threshold"] is None else one["threshold"] for one in rows])
    images = load_data._GENERATED["demo-target"]().test.images[:8]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    passes = (probabilities := predict_images(run, images)) >= least
    lines = typed(f"predict {run} {tmp_path} --top 1 --thresholds --quiet --csv {tmp_path}/out.csv").stdout.splitlines()
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    for number in range(8):
        mine = [row for row in found if row["image"].endswith(f"{number}.png")]
        listed, best = [int(row["label"]) for row in mine], int(probabilities[number].argmax())
        order = np.argsort(-probabilities[number]).tolist()
        assert listed == [label for label in order if label == best or passes[number, label]]
        limits = [rows[label]["threshold"] for label in listed]  # None of a class without validation images
        assert [row["threshold"] for row in mine] == ["" if one is None else str(one) for one in limits]
        decided = ["" if one is None else str(passes[number, label]) for label, one in zip(listed, limits, strict=True)]
        assert [row["passes"] for row in mine] == decided
    words = {"True": "yes", "False": "no", "": "-"}
    assert lines[0].split() == ["image", "rank", "class", "probability", "threshold"]
    assert [line.split()[-1] for line in lines[1:]] == [words[row["passes"]] for row in found]


@pytest.mark.slow
def test_a_run_without_validation_images_has_no_thresholds(tmp_path):
    run = tmp_path / "run"
    printed(f"run TINY --validation 0 --epochs 1 --run-dir {run}")
    result = json.loads((run / "result.json").read_text())
    assert (result["validation"], result["thresholds"]) == (None, None)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    refused = typed(f"predict {run} {tmp_path}/a.png --thresholds")
    assert (refused.exit_code, "--thresholds: " in refused.stderr) == (2, True)
    assert "chosen by a run with validation images" in refused.stderr
    refused = typed(f"run TINY --validation 0 --select-by loss --run-dir {tmp_path}/other")
    assert (refused.exit_code, "--select-by loss is a score of validation images" in refused.stderr) == (2, True)
    assert not (tmp_path / "other").exists()
