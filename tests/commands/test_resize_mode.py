"""Photos that are not square: the figures of the program that trained the model, and of slim's own evaluation."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from finetune.cli import main
from finetune.data.batches import feeding
from finetune.data.geometry import Geometry
from finetune.diagnosis.rules.rule import Commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has photos/ and the model m.keras."""
    return tmp_path_factory.mktemp("squashed")


@pytest.fixture(scope="module")
def photos(folder: Path) -> Path:
    """Two classes of 24 x 40 px, told apart at the sides, which a centre square leaves out."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 12)):
        for label, side in (("left", slice(0, 8)), ("right", slice(32, 40))):
            images = folder / "photos" / split / label
            images.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 200, (24, 40, 3), np.uint8)
                pixels[:, side] //= 3
                Image.fromarray(pixels).save(images / f"{number}.png")
    return folder / "photos"


def read_by_keras(images: Path) -> Any:
    return keras.utils.image_dataset_from_directory(images, image_size=(16, 16), shuffle=False, verbose=False)


@pytest.fixture(scope="module")
def model(photos: Path, folder: Path) -> keras.Model:
    keras.utils.set_random_seed(0)
    images = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Conv2D(4, 3, strides=2)(x))
    model = keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.ReLU()(x))))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(read_by_keras(photos / "train"), epochs=15, shuffle=False, verbose=0)
    model.save(folder / "m.keras")
    return model


def run(*words: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*map(str, words), "--json"])
    assert result.exit_code in (0, 3, 4), result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_model_trained_on_keras_images_has_keras_figures(model: keras.Model, photos: Path, folder: Path) -> None:
    loss, accuracy = model.evaluate(read_by_keras(photos / "test"), verbose=0)
    words = ("evaluate", folder / "m.keras", "--data", photos)
    found = run(*words, "--eval-recipe", "keras")
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-7)
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert run(*words)["accuracy"] < accuracy  # the centre square does not show the sides

    trials = run("diagnose-bn", folder / "m.keras", "--data", photos, "--all-checks")["preprocessing"]["trials"]
    by_name = {one["name"]: one["accuracy"] for one in trials}
    assert by_name["raw --resize-mode squash"] > by_name["raw"]


def test_a_recipe_that_nobody_published_is_refused(model: keras.Model, photos: Path, folder: Path) -> None:
    words = ["evaluate", str(folder / "m.keras"), "--data", str(photos), "--eval-recipe", "published"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "no source says how the images of this model were cropped and resized" in result.output


@pytest.mark.slow
def test_a_run_keeps_its_recipe(photos: Path, tmp_path: Path) -> None:
    words = ("run", "--backbone", "resnet_v1_demo", "--data", photos, "--epochs", 1, "--preset", "linear-probe")
    run(*words, "--resize-mode", "squash", "--crop-fraction", 0.9, "--run-dir", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["resize_mode"], config["crop_fraction"]) == ("squash", 0.9)
    trained = run("evaluate", tmp_path / "run")["accuracy"]
    run("export", tmp_path / "run", "--format", "keras", "--out", tmp_path / "k.keras", "--no-evaluation")
    tests = sorted((photos / "test").rglob("*.png"))
    for target in (tmp_path / "run", tmp_path / "k.keras"):
        found = run("predict", target, *tests, "--top", 1)["images"]
        right = [one["classes"][0]["class"] == Path(one["image"]).parent.name for one in found]
        assert np.mean(right) == trained


def test_a_remedy_names_the_resize_mode_as_it_is_typed() -> None:
    name = "scale=1/255,mean=0.5 --resize-mode squash --crop-fraction 0.875"
    assert feeding(name).geometry == Geometry("squash", 0.875)
    assert feeding(name).name == name
    assert Commands("m.keras").diagnose(preprocess="vgg, colours swapped --resize-mode squash") == (
        "finetune diagnose-bn m.keras --preprocess 'vgg, colours swapped' --resize-mode squash"
    )
