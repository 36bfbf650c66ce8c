"""Several labels an image, from the data to the prediction, the report, the export and the diagnosis."""

import json
import re

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

import finetune
from finetune.evaluation.predictions import load_predictions
from finetune.runs.directory import RunDir
from tests.support.commands import typed

NAMES = ("blue", "green", "red")
RUN = "--backbone TINY_FILE --image-size 16 --batch-size 20 --validation 0.2"


def squares(images, seed):
    """uint8 `[images, 16, 16, 3]`: up to three squares of colour on grey, and 0/1 for each colour."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(100, 140, (images, 16, 16, 3), np.uint8)
    labels = (rng.random((images, 3)) < [0.5, 0.3, 0.3]).astype(np.uint8)
    for image, row in zip(pixels, labels, strict=True):
        for colour, corner in zip(np.flatnonzero(row), rng.permutation(4), strict=False):
            down, right = 8 * np.array(divmod(int(corner), 2))
            image[down : down + 8, right : right + 8, 2 - colour] = 255
    return pixels, labels


TRAIN, TEST = squares(200, 0), squares(60, 1)


def printed(line, code=0):
    result = typed(f"{line} --json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "squares.npz"
    np.savez(path, x_train=TRAIN[0], y_train=TRAIN[1], x_test=TEST[0], y_test=TEST[1], class_names=np.array(NAMES))
    return path


@pytest.fixture(scope="module")
def run(data):
    path = data.parent / "run"
    options = "--epochs 12 --patience 6 --learning-rate 0.02 --no-recalibrate-at-end"
    said = typed(f"run {RUN} --data {data} {options} --quiet --run-dir {path}")
    assert said.exit_code == 0, said.output
    assert "mean average precision" in said.stdout
    return path


def test_a_learning_rate_is_found(data, tmp_path):
    said = typed(f"run {RUN} --data {data} --lr auto --epochs 1 --quiet --run-dir {tmp_path / 'run'}")
    assert said.exit_code == 0, said.output
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["learning_rate"] == json.loads((tmp_path / "run" / "lr_range.json").read_text())["learning_rate"]


def test_a_run_is_chosen_and_scored_by_its_mean_average_precision(run):
    result, config = (json.loads((run / name).read_text()) for name in ("result.json", "config.json"))
    assert config["select_by"] == "map"
    test = result["test"]["is_training_false"]
    kept = load_predictions(run / "predictions.npz", classes=3)
    assert np.array_equal(kept.labels, TEST[1])
    assert test["map"] == pytest.approx(average_precision_score(TEST[1], kept.logits), abs=1e-9)
    assert test["map"] > 0.8
    assert test["accuracy"] == pytest.approx(kept.outcomes.mean(), abs=1e-9)
    best = max(RunDir.open(run).epochs(), key=lambda row: row["validation_map"])
    assert result["validation"]["map"] == pytest.approx(best["validation_map"], rel=1e-5)
    assert printed(f"evaluate {run}")["map"] == pytest.approx(test["map"], abs=1e-6)
    card = (run / "MODEL_CARD.md").read_text()
    assert f"mean average precision **{test['map']:.1%}**" in card
    assert "keras.ops.sigmoid" in card


def test_the_report_has_a_row_for_each_label(run, tmp_path):
    page = tmp_path / "page.html"
    [reported] = printed(f"report {run} --html {page}")["runs"]
    result = json.loads((run / "result.json").read_text())
    assert [one["name"] for one in reported["classes"]] == list(NAMES)
    found = [one["average_precision"] for one in reported["classes"]]
    assert found == result["multi_label"]["average_precision"]
    assert reported["macro_f1"] == pytest.approx(result["multi_label"]["at_thresholds"]["macro_f1"])
    assert reported["mistakes"]
    assert {"true", "predicted", "label"} <= reported["mistakes"][0].keys()
    assert "average precision" in page.read_text()
    assert "average precision" in typed(f"report {run}").stdout


def test_predict_lists_the_labels_that_reach_their_threshold(run, tmp_path):
    Image.fromarray(np.full((16, 16, 3), 120, np.uint8)).save(tmp_path / "grey.png")
    for number in range(3):
        Image.fromarray(TEST[0][number]).save(tmp_path / f"{number}.png")
    thresholds = [one["threshold"] for one in json.loads((run / "result.json").read_text())["thresholds"]]
    chances = finetune.open_run(run).predict(TEST[0][:3])
    assert np.all(np.abs(chances.sum(axis=1) - 1) > 1e-3)  # no softmax
    places = " ".join(str(tmp_path / f"{number}.png") for number in range(3))
    found = printed(f"predict {run} {places}")["images"]
    for number, one in enumerate(found):
        listed = {row["label"] for row in one["classes"]}
        assert listed == set(np.flatnonzero(chances[number] >= thresholds).tolist())
        assert all(row["passes"] for row in one["classes"])
    assert len(printed(f"predict {run} {places} --top 3")["images"][0]["classes"]) == 3
    assert "no label" in typed(f"predict {run} {tmp_path / 'grey.png'}").stdout


@pytest.mark.slow
def test_an_export_decides_as_the_run_does(run, tmp_path):
    Image.fromarray(TEST[0][0]).save(tmp_path / "0.png")
    out = tmp_path / "run.keras"
    printed(f"export {run} --format keras --out {out}")
    ours, theirs = (printed(f"predict {target} {tmp_path / '0.png'}")["images"] for target in (run, out))
    assert ours == theirs


@pytest.mark.slow
def test_the_diagnosis_compares_images_and_shows_the_mean_average_precision(run):
    found = printed(f"diagnose-bn {run}", code=0 if finetune.diagnose_bn(run).healthy is not False else 3)
    test = json.loads((run / "result.json").read_text())["test"]
    for mode in ("is_training_false", "is_training_true"):
        assert found["map"]["test"][mode] == pytest.approx(test[mode]["map"], abs=1e-6)
        assert found["label_accuracy"]["test"][mode] == pytest.approx(test[mode]["label_accuracy"], abs=1e-6)
    assert found["labels"] is None


@pytest.fixture(scope="module")
def sigmoids():
    """A compiled model of three sigmoids, trained by Keras."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = images = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(layers.Rescaling(1 / 16)(x))
    x = layers.GlobalMaxPooling2D()(layers.ReLU()(layers.BatchNormalization(momentum=0.8)(x)))
    model = keras.Model(images, layers.Dense(3, activation="sigmoid")(x))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["binary_accuracy"])
    model.fit(*TRAIN, epochs=8, batch_size=20, verbose=0)
    return model


def test_models_in_memory_are_scored_by_multi_hot_labels(sigmoids):
    loss, accuracy = sigmoids.evaluate(*TEST, verbose=0)
    found = finetune.diagnose_bn(sigmoids, test=TEST, train=TRAIN, checks="quick").to_dict()
    assert found["loss"]["test"]["is_training_false"] == pytest.approx(loss, rel=1e-4)
    assert found["label_accuracy"]["test"]["is_training_false"] == pytest.approx(accuracy, abs=1e-6)
    expected = average_precision_score(TEST[1], sigmoids.predict(TEST[0], verbose=0))
    assert found["map"]["test"]["is_training_false"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_forgotten_updates_are_found_and_a_softmax_is_refused(sigmoids):
    model = keras.models.clone_model(sigmoids)
    model.set_weights(sigmoids.get_weights())
    model.layers[3].moving_mean.assign(np.zeros(8))
    model.layers[3].moving_variance.assign(np.ones(8))
    assert finetune.diagnose_bn(model, test=TEST, train=TRAIN).cause == "updates-never-ran"
    softmax = keras.Model(model.input, keras.layers.Dense(3, activation="softmax")(model.layers[-2].output))
    with pytest.raises(finetune.FinetuneError, match="gives a softmax over its 3 classes, and the data has several"):
        finetune.diagnose_bn(softmax, test=TEST, train=TRAIN)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--data DATA --sampler balanced", "give --class-weights balanced"),
        ("--data DATA --select-by balanced-accuracy", "no one class each: give map, macro-f1 or accuracy"),
        ("--data DATA --few-shot 3", "--few-shot 3 draws images of one class each"),
        ("--data demo-target --select-by map", "--select-by map is a score of several labels an image"),
        ("--data demo-target --multi-label", "--multi-label: .* has one label an image"),
        ("--data DATA --label-separator ''", "at least one character"),
    ],
)
def test_settings_that_do_not_go_with_the_labels_are_refused(options, said, data, tmp_path):
    result = typed(f"run {RUN} --run-dir {tmp_path / 'run'} {options.replace('DATA', str(data))}")
    assert result.exit_code == 2
    assert re.search(said, " ".join(result.stderr.split())), result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", ["--mixup 0.2 --cutmix 1 --loss focal", "--class-weights balanced --tta flip --ema 0.9"]
)
def test_other_losses_and_mixed_images_train(options, data, tmp_path):
    printed(f"run {RUN} --data {data} --epochs 2 --run-dir {tmp_path / 'run'} {options}")


@pytest.mark.slow
def test_cached_features_give_the_same_run(data, tmp_path):
    runs = {}
    for cache in ("on", "off"):
        path = tmp_path / cache
        printed(f"run {RUN} --data {data} --epochs 3 --freeze '*' --cache-features {cache} --run-dir {path}")
        runs[cache] = json.loads((path / "result.json").read_text())["test"]["is_training_false"]
    assert runs["on"]["map"] == pytest.approx(runs["off"]["map"], abs=1e-3)
    assert runs["on"]["loss"] == pytest.approx(runs["off"]["loss"], rel=1e-4)
