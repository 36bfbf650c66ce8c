"""`finetune run --calibrate` and `--tta` with crops, and all that then uses the temperature."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from finetune.data.load_data import load_data
from finetune.errors import FinetuneError
from finetune.runs.directory import RunDir
from tests.support.commands import typed
from tests.support.shared import made_once


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody may change."""

    def make(folder: Path) -> None:
        learning = "--examples 400 --learning-rate 0.03 --epochs 6 --validation 0.1"
        result = typed(f"run TINY {learning} --calibrate --tta five-crop --run-dir {folder}/run")
        assert result.exit_code == 0, result.output
        for words in ("calibration    temperature ", "fitted on 40 validation images", "TTA five-crop  is_training"):
            assert words in result.stdout

    return made_once(tmp_path_factory, "calibrated", make)[0] / "run"


def logits_of(run: Path, images: np.ndarray) -> np.ndarray:
    """Of images of 32 px, by the saved model itself, float64."""
    small = keras.ops.image.resize(images.astype(np.float32), (16, 16), antialias=True)
    return np.asarray(keras.models.load_model(run / "model.keras")(small, training=False), np.float64)


def test_the_temperature_is_that_of_the_validation_images_alone(calibrated: Path) -> None:
    dataset = load_data(RunDir.open(calibrated).config())
    assert dataset.validation is not None
    logits, labels = logits_of(calibrated, dataset.validation.images), dataset.validation.labels

    def loss(log: float) -> float:
        return -float(log_softmax(logits / np.exp(log), axis=1)[np.arange(len(labels)), labels].mean())

    best = minimize_scalar(loss, bounds=(-6, 6), method="bounded", options={"xatol": 1e-9})
    scaling = json.loads((calibrated / "result.json").read_text())["temperature_scaling"]
    assert scaling["temperature"] == pytest.approx(np.exp(best.x), rel=1e-3)
    assert (scaling["images"], scaling["remark"]) == (40, "")
    assert scaling["loss_after"] == pytest.approx(best.fun, rel=1e-4)
    assert scaling["loss_before"] == pytest.approx(loss(0), rel=1e-4)
    before, after = scaling["test"]["before"], scaling["test"]["after"]
    [run] = json.loads(typed(f"report {calibrated} --json").stdout)["runs"]
    assert run["calibration"]["expected_error"] == pytest.approx(before["expected_error"], abs=1e-6)
    assert run["temperature_scaling"]["test"]["after"] == after
    assert before["loss"] == pytest.approx(run["test"]["is_training_false"]["loss"], rel=1e-6)
    assert "fitted on 40 validation images" in (calibrated / "MODEL_CARD.md").read_text()


def test_predict_and_exports_use_it(calibrated: Path, tmp_path: Path) -> None:
    pixels = load_data(RunDir.open(calibrated).config()).test.images[:1]
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    temperature = RunDir.open(calibrated).temperature()
    expected = np.sort(softmax(logits_of(calibrated, pixels)[0] / temperature))[::-1]
    assert typed(f"export {calibrated} --format keras --out {tmp_path}/m.keras --no-evaluation").exit_code == 0
    for target in (calibrated, tmp_path / "m.keras"):
        [one] = json.loads(typed(f"predict {target} {tmp_path}/a.png --top 10 --json").stdout)["images"]
        assert [each["probability"] for each in one["classes"]] == pytest.approx(expected, abs=1e-5)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert json.loads(archive.read("finetune.json"))["temperature"] == temperature


def test_crops_are_scored_alike_in_run_and_evaluate_and_used_by_predict(calibrated: Path, tmp_path: Path) -> None:
    result = json.loads((calibrated / "result.json").read_text())
    scored = json.loads(typed(f"evaluate {calibrated} --tta five-crop --json").stdout)
    assert scored["tta"].pop("kind") == "five-crop"
    assert scored["tta"] == pytest.approx(result["tta"]["is_training_false"], rel=1e-5)
    assert scored["loss"] == pytest.approx(result["test"]["is_training_false"]["loss"], rel=1e-5)
    assert scored["loss"] != pytest.approx(scored["tta"]["loss"], rel=1e-4)
    pixels = load_data(RunDir.open(calibrated).config()).test.images[:1]
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    # By hand: 16 px / 0.875 is 18 px; five places, each softmax at the temperature.
    large = np.asarray(keras.ops.image.resize(pixels.astype(np.float32), (18, 18), antialias=True))
    model = keras.models.load_model(calibrated / "model.keras")
    cut = [large[:, y : y + 16, x : x + 16] for y, x in ((1, 1), (0, 0), (0, 2), (2, 0), (2, 2))]
    temperature = RunDir.open(calibrated).temperature()
    chances = [softmax(np.asarray(model(one, training=False), np.float64)[0] / temperature) for one in cut]
    [one] = json.loads(typed(f"predict {calibrated} {tmp_path}/a.png --tta five-crop --top 10 --json").stdout)["images"]
    found = [each["probability"] for each in sorted(one["classes"], key=lambda each: each["label"])]
    assert found == pytest.approx(np.mean(chances, axis=0), abs=1e-5)


@pytest.mark.slow
def test_an_export_gives_probabilities_at_the_temperature(calibrated: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    result = typed(f"export {calibrated} --format savedmodel --out {tmp_path}/saved --no-evaluation")
    temperature = RunDir.open(calibrated).temperature()
    assert f"its probabilities are softmax(logits / {temperature:.6g})" in result.stdout
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    found = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"](images=tf.constant(images))
    expected = softmax(np.asarray(found["logits"], np.float64) / temperature, axis=1)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "run TINY --calibrate --validation 0",
            "--calibrate fits the temperature on validation images, and none are held",
        ),
        ("run TINY --tta six-crop", "expected one of flip, five-crop, ten-crop"),
        ("predict RUN a.png --tta crop", "'crop' is not one of 'flip', 'five-crop', 'ten-crop'"),
    ],
)
def test_bad_input_is_one_message(line: str, words: str, calibrated: Path, tmp_path: Path) -> None:
    run_dir = f" --run-dir {tmp_path}/new" if line.startswith("run ") else ""
    result = typed(line.replace("RUN", str(calibrated)) + run_dir)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("Error:") == 1
    assert not list(tmp_path.iterdir())


def test_a_damaged_temperature_is_named(calibrated: Path, tmp_path: Path) -> None:
    for wrong in ({}, {"temperature": 0}, {"temperature": None}, 3):
        (tmp_path / "result.json").write_text(json.dumps({"temperature_scaling": wrong}))
        with pytest.raises(FinetuneError, match="temperature_scaling without a temperature above 0"):
            RunDir(tmp_path).temperature()
    (tmp_path / "result.json").write_text("{}")
    assert RunDir(tmp_path).temperature() == 1  # a run of an earlier version
