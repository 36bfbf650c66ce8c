"""Accuracies of the command line against a count in NumPy that knows nothing of batches."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support.commands import typed

TEST, CLASSES = 41, 4
RUN = (
    "run --backbone TINY_FILE --epochs 4 --image-size 16 --batch-size 8 --validation 0 --quiet --learning-rate "
    "0.03 --preprocess raw"
)


def arrays():
    """Images whose brightness is their class, but not always: the test images are the noisier."""
    rng = np.random.default_rng(5)
    found = {}
    for split, count, noise in (("train", 64, 5), ("test", TEST, 20)):
        labels = rng.integers(0, CLASSES, count)
        labels[:CLASSES] = np.arange(CLASSES)
        brightness = 60 + 30 * labels + rng.normal(0, noise, count)
        images = brightness[:, None, None, None] + rng.integers(-40, 40, (count, 16, 16, 3))
        found |= {f"x_{split}": images.clip(0, 255).astype(np.uint8), f"y_{split}": labels}
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("counted")
    np.savez(place / "own.npz", **arrays())
    result = typed(f"{RUN} --data {place}/own.npz --run-dir {place}/run")
    assert result.exit_code == 0, result.output
    return place / "run"


@pytest.fixture(scope="module")
def counted(run):
    """(right, summed cross-entropy) by Keras alone: the run's file, the images one at a time, float64."""
    model, data = keras.models.load_model(run / "model.keras"), arrays()
    pixels = data["x_test"].astype(np.float32)
    logits = np.concatenate([np.asarray(model(one[None], training=False), np.float64) for one in pixels])
    best = np.sort(logits, axis=1)
    assert (best[:, -1] - best[:, -2]).min() > 1e-3  # nobody's rounding turns an image
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(TEST), data["y_test"]]
    return int((logits.argmax(axis=1) == data["y_test"]).sum()), float(losses.sum())


@pytest.mark.slow
@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("batch_size", [1, 7, 8, TEST, 500])
def test_evaluate_counts_every_image_once(batch_size, run, counted, tmp_path):
    assert (TEST % 7, TEST % 8) == (6, 1)  # the rest of the last batch
    other = tmp_path / "run"
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "batch_size": batch_size}))
    found = json.loads(typed(f"evaluate {other} --json").stdout)
    right, loss = counted
    assert (found["examples"], found["correct"]) == (TEST, right)
    assert found["accuracy"] == right / TEST
    assert found["loss"] == pytest.approx(loss / TEST, rel=1e-5)
    if batch_size == 8:
        batch = json.loads(typed(f"evaluate {other} --is-training true --json").stdout)
        assert batch["examples"] == TEST


def test_the_result_of_the_run_is_that_count(run, counted):
    result = json.loads((run / "result.json").read_text())["test"]
    right, loss = counted
    assert 0.3 < right / TEST < 1  # neither chance nor all: a count that were off would show
    assert (result["is_training_false"]["examples"], result["is_training_false"]["correct"]) == (TEST, right)
    assert result["is_training_false"]["accuracy"] == right / TEST
    assert result["is_training_false"]["loss"] == pytest.approx(loss / TEST, rel=1e-5)
    assert result["is_training_true"]["examples"] == TEST


def test_the_stored_predictions_are_the_same_images_in_their_order(run, counted):
    with np.load(run / "predictions.npz") as kept:
        labels, classes = kept["labels"], kept["top_classes"][:, 0]
    np.testing.assert_array_equal(labels, arrays()["y_test"])
    assert int((classes == labels).sum()) == counted[0]


@pytest.mark.slow
@pytest.mark.parametrize("options", ["--preset linear-probe --cache-features on", "--tta flip", "--patience 1"])
def test_other_ways_to_the_result_count_the_same(options, run, tmp_path):
    """Features from the cache, mirror images, the best epoch: result.json is what Keras alone counts."""
    held = "--validation 0.2" if "patience" in options else ""
    place: Path = tmp_path / "run"
    data = run.parent / "own.npz"
    result = typed(f"{RUN} --data {data} {options} {held} --run-dir {place}")
    assert result.exit_code == 0, result.output
    model, images = keras.models.load_model(place / "model.keras"), arrays()
    logits = np.asarray(model(images["x_test"].astype(np.float32), training=False))
    test = json.loads((place / "result.json").read_text())["test"]["is_training_false"]
    assert test["correct"] == int((logits.argmax(axis=1) == images["y_test"]).sum())
    assert test["examples"] == TEST
