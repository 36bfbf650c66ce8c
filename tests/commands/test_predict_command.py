"""`finetune predict` as typed: the same answer as the run's own evaluation, and bad images named."""

import csv
import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from finetune.data import load_data
from tests.support.commands import tree, typed


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test images of the run's data as PNGs, one of them with a name that moves the cursor."""
    folder = tmp_path_factory.mktemp("images")
    pixels = load_data._GENERATED["demo-target"]().test.images[:6]
    (folder / "b").mkdir()
    for name, image in zip(("a.png", "b/0.png", "b/1.png", "c.png", "d\x1b[31m\n.png", "e.png"), pixels, strict=True):
        Image.fromarray(image).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.mark.slow
def test_the_answer_is_that_of_the_evaluation(finished: tuple, images: Path, tmp_path: Path) -> None:
    run, _ = finished
    result = typed(f"predict {run} {images} --top 3 --csv {tmp_path}/new/out.csv --json --batch-size 4")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    names = [Path(one["image"]).name for one in found["images"]]
    assert names == ["a.png", "0.png", "1.png", "c.png", "d\\x1b[31m\\n.png", "e.png"]
    assert found["remarks"] == ["skipped 1 file that is no image (.txt 1)"]
    # By hand: enlarged and preprocessed as evaluation does it, and a softmax in float64.
    model = keras.models.load_model(run / "model.keras")
    pixels = load_data._GENERATED["demo-target"]().test.images[:6]
    small = np.asarray(keras.ops.image.resize(pixels.astype(np.float32), (16, 16), antialias=True))
    logits = np.asarray(model(small / 127.5 - 1, training=False), np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for one, row in zip(found["images"], chances, strict=True):
        best = np.argsort(-row)[:3]
        assert [each["label"] for each in one["classes"]] == best.tolist()
        assert np.allclose([each["probability"] for each in one["classes"]], row[best], atol=1e-5)
    with (tmp_path / "new" / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    assert rows[0]["class"] == found["images"][0]["classes"][0]["class"]
    assert rows[2]["rank"] == "3"
    again = typed(f"predict {run} {images} --csv {tmp_path}/new/out.csv")
    assert (again.exit_code, "is already there and is not overwritten" in again.stderr) == (2, True)


@pytest.mark.slow
def test_the_table_escapes_names(finished: tuple, images: Path) -> None:
    result = typed(f"predict {finished[0]} {images} --top 1 --quiet")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["image", "rank", "class", "probability"]
    assert len(lines) == 7
    assert "d\\x1b[31m\\n.png" in lines[5]
    assert "\x1b" not in result.stdout


@pytest.mark.slow
def test_damaged_images_are_named_in_one_error_or_left_out(finished: tuple, images: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes((images / "a.png").read_bytes()[:300])
    (tmp_path / "none.jpg").write_bytes(b"")
    result = typed(f"predict {finished[0]} {tmp_path} {images}/a.png")
    assert result.exit_code == 1
    assert "2 of 3 images cannot be used: " in result.stderr
    assert "bad.png: " in result.stderr
    assert "none.jpg: it is empty" in result.stderr
    assert result.stderr.count("Error:") == 1
    left = typed(f"predict {finished[0]} {tmp_path} {images}/a.png --skip-bad-images --json")
    found = json.loads(left.stdout)
    assert (len(found["images"]), len(found["skipped"])) == (1, 2)


@pytest.mark.slow
def test_an_exported_keras_file_gives_the_same(finished: tuple, images: Path, tmp_path: Path) -> None:
    exported = typed(f"export {finished[0]} --format keras --out {tmp_path}/m.keras --no-evaluation")
    assert exported.exit_code == 0, exported.output
    run, file = (
        json.loads(typed(f"predict {one} {images} --json").stdout) for one in (finished[0], f"{tmp_path}/m.keras")
    )
    assert [one["classes"] for one in run["images"]] == [one["classes"] for one in file["images"]]
    inside = typed(f"export {finished[0]} --format keras --with-preprocessing --out {tmp_path}/p.keras --no-evaluation")
    assert inside.exit_code == 0, inside.output
    refused = typed(f"predict {tmp_path}/p.keras {images}")
    assert "prepares its pixels itself" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"preprocess": "os:system"}, "asks for the preprocessing 'os:system'"),
        ({"image_size": "16"}, "says '16' px"),
        ({"data_image_shape": [0, "x"]}, "has data_image_shape"),
        ({"class_names": ["one"]}, "which the class names kept with it do not fit"),
    ],
)
def test_an_exported_file_decides_nothing_but_what_it_may(
    entry: dict, words: str, finished: tuple, images: Path, tmp_path: Path
) -> None:
    model = keras.models.load_model(finished[0] / "model.keras")
    model.save(tmp_path / "m.keras")
    card = {"class_names": ["x"] * 10, "image_size": 16, "preprocess": "unit", "preprocessing_inside": False}
    with zipfile.ZipFile(tmp_path / "m.keras", "a") as archive:
        archive.writestr("finetune.json", json.dumps({"data_image_shape": None, **card, **entry}))
    result = typed(f"predict {tmp_path}/m.keras {images}")
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count("Error:") == 1


@pytest.mark.slow
def test_a_file_of_nobody_knows_whom_is_refused(finished: tuple, images: Path, tmp_path: Path) -> None:
    keras.models.load_model(finished[0] / "model.keras").save(tmp_path / "m.keras")
    result = typed(f"predict {tmp_path}/m.keras {images}")
    assert "does not say how its pixels were prepared" in result.stderr


def test_a_picture_of_each_image_shows_where_the_class_was_found(finished: tuple, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "heat"
    result = typed(f"predict {finished[0]} {images} --top 1 --json --explain {out}")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["explained_layer"].startswith("resnet_v1_demo.block3.")
    for one in found["images"]:
        explained = dict(one["explained"])
        with Image.open(explained.pop("picture")) as picture:
            assert picture.width == 2 * 224 + 6
        assert explained == one["classes"][0]
    assert len(list(out.iterdir())) == len(found["images"]) == 6
    words = typed(
        f"predict {finished[0]} {images}/a.png --explain {tmp_path}/b --explain-class 3 --explain-layer block2"
    )
    assert "heat maps of resnet_v1_demo.block2" in words.stderr
    assert "1 picture in" in words.stderr


@pytest.mark.parametrize(
    ("line", "exit_code", "words"),
    [
        ("predict RUN OUT --explain-layer x", 2, "--explain-layer goes with --explain"),
        ("predict RUN OUT --explain-class x", 2, "--explain-class goes with --explain"),
        ("predict RUN OUT --explain OUT/empty", 2, "is already there and nothing is overwritten"),
        ("predict RUN OUT --explain OUT/new --explain-class lost", 2, "has no such class: expected a name or a number"),
        pytest.param(
            "predict RUN OUT --explain OUT/new --explain-layer lost", 2, "unknown layer 'lost'", marks=pytest.mark.slow
        ),
        ("predict RUN OUT/none.jpg", 1, "there is nothing of that name"),
        ("predict RUN OUT/empty", 1, "holds no images"),
        ("predict RUN", 2, "missing the images to classify"),
        ("predict OUT/empty OUT", 1, "cannot be examined: expected a run"),
        ("predict RUN OUT --top 0", 2, "--top"),
    ],
)
def test_bad_input_is_one_message(line: str, exit_code: int, words: str, finished: tuple, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    before = tree(tmp_path)
    result = typed(line.replace("RUN", str(finished[0])).replace("OUT", str(tmp_path)))
    assert result.exit_code == exit_code
    assert words in result.stderr
    assert result.stderr.count("Error:") == 1
    assert tree(tmp_path) == before


def test_an_unfinished_run_says_how_to_go_on(interrupted: Path, images: Path) -> None:
    result = typed(f"predict {interrupted} {images}")
    assert result.exit_code == 1
    assert f"finetune run --resume {interrupted}" in result.stderr
