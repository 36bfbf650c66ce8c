"""`evaluate` and `predict` on model files of other people: what Keras's own `evaluate` and `predict` give."""

import json
import warnings

import keras
import numpy as np
import pytest
from PIL import Image

from tests.support.commands import typed

layers = keras.layers


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two classes of 8 px images as arrays and as files; a model with one sigmoid unit and BatchNorm, one without."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    images = np.clip(labels[:, None, None, None] * 60 + rng.normal(90, 40, (60, 8, 8, 3)), 0, 255).astype("u1")
    np.savez(
        folder / "two.npz",
        x_train=images[:30],
        y_train=labels[:30],
        x_test=images[30:],
        y_test=labels[30:],
        class_names=["cat", "dog"],
    )
    (folder / "images").mkdir()
    for number in range(3):
        Image.fromarray(images[30 + number]).save(folder / "images" / f"{number}.png")
    keras.utils.set_random_seed(0)
    normal = keras.initializers.RandomNormal(stddev=0.5, seed=3)
    for name, middle in (
        ("sigmoid", layers.BatchNormalization(moving_mean_initializer=normal)),
        ("plain", layers.ReLU()),
    ):
        inputs = keras.Input((8, 8, 3))
        x = middle(layers.Conv2D(4, 3, strides=2)(layers.Rescaling(1 / 255)(inputs)))
        x = layers.GlobalAveragePooling2D()(x)
        model = keras.Model(inputs, layers.Dense(1, activation="sigmoid", kernel_initializer=normal)(x))
        model.compile(loss="binary_crossentropy", metrics=["accuracy"], run_eagerly=True)
        model.save(folder / f"{name}.keras")
    return folder


def of_keras(place, name):
    """(loss, accuracy) of Keras's own `evaluate`, and its probabilities."""
    data, model = np.load(place / "two.npz"), keras.models.load_model(place / f"{name}.keras", compile=False)
    model.compile(loss="binary_crossentropy", metrics=["accuracy"], run_eagerly=True)
    images = data["x_test"].astype("float32")
    return model.evaluate(images, data["y_test"][:, None], batch_size=30, verbose=0), model.predict(images, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sigmoid", "plain"])
def test_evaluate_gives_what_keras_gives(place, name):
    result = typed(f"evaluate {place}/{name}.keras --data {place}/two.npz --json")
    assert result.exit_code == 0, result.output
    found, (expected, _) = json.loads(result.stdout), of_keras(place, name)
    assert found["correct"] == round(expected[1] * 30)
    assert found["loss"] == pytest.approx(expected[0], abs=1e-5)
    assert found.keys() == {
        *("target", "split", "is_training", "accuracy", "loss", "examples", "correct", "standard_error"),
        *("balanced_accuracy", "macro_f1"),
    }


def test_the_second_class_is_named(place):
    result = typed(f"evaluate {place}/sigmoid.keras --data {place}/two.npz --split train")
    assert result.exit_code == 0, result.output
    assert "one output: the score of class 1, the second class of the data; it is 'dog'" in result.stderr
    assert result.stdout.startswith("train: accuracy ")


def test_predict_gives_what_keras_gives(place):
    _, chances = of_keras(place, "plain")
    result = typed(f"predict {place}/plain.keras {place}/images --data {place}/two.npz --json")
    assert result.exit_code == 0, result.output
    for one, chance in zip(json.loads(result.stdout)["images"], chances[:3, 0], strict=True):
        told = {each["class"]: each["probability"] for each in one["classes"]}
        assert told == pytest.approx({"dog": chance, "cat": 1 - chance}, abs=1e-5)


def test_classes_without_data_are_numbered(place):
    result = typed(f"predict {place}/sigmoid.keras {place}/images --top 1")
    assert result.exit_code == 0, result.output
    assert {line.split()[2] for line in result.stdout.splitlines()[1:]} <= {"0", "1"}
    assert "the classes are numbered from 0" in result.stderr


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("diagnose-bn PLACE/plain.keras --data PLACE/two.npz", 1, "use 'finetune evaluate' for its accuracy"),
        ("recalibrate-bn PLACE/plain.keras --data PLACE/two.npz", 1, "use 'finetune evaluate' for its accuracy"),
        ("evaluate PLACE/plain.keras --data PLACE/two.npz --split validation", 1, "has no validation images"),
        ("evaluate PLACE/plain.keras --output a --data PLACE/two.npz", 2, "has one output, dense"),
        ("predict PLACE/plain.keras", 2, "missing the images to classify with"),
        ("evaluate", 2, "missing the model"),
    ],
)
def test_what_cannot_be_done_is_said(place, line, code, words):
    result = typed(line.replace("PLACE", str(place)))
    assert result.exit_code == code, result.output
    assert words in result.stderr


def test_a_run_says_itself_what_it_was(finished):
    for verb in ("evaluate RUN", "predict RUN x.png"):
        result = typed(f"{verb.replace('RUN', str(finished[0]))} --preprocess unit")
        assert result.exit_code == 2, result.output
        assert "--preprocess" in result.stderr


def test_quiet_silences_warnings_of_other_libraries(place, monkeypatch):
    def load(path, **options):
        warnings.warn("this file is old", UserWarning, stacklevel=2)
        return loaded(path, **options)

    loaded = keras.models.load_model
    monkeypatch.setattr(keras.models, "load_model", load)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = typed(f"evaluate {place}/plain.keras --data {place}/two.npz --quiet --json")
    assert (result.exit_code, result.stderr) == (0, "")
