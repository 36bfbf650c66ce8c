"""`finetune run` on a folder of photos: its files, its messages, and that an interrupted run sees the same pixels."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.support.commands import stop_at, tree, typed

COLOURS = {"lion": (200, 60, 40), "newt": (40, 190, 60), "wasp": (60, 60, 210)}
TINY = "--backbone TINY_FILE --image-size 16 --epochs 2 --batch-size 8 --learning-rate 0.003"


def draw(path, name, seed):
    rng = np.random.default_rng(seed)
    pixels = (np.array(COLOURS[name]) + rng.integers(-40, 41, (70 + seed % 9, 90, 3))).clip(0, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `photos` (without test images, two of 30 damaged) and a finished run on them, `whole`."""
    place = tmp_path_factory.mktemp("place")
    for index, name in enumerate(COLOURS):
        for number in range(10):
            split = "train" if number < 7 else "val"
            draw(place / "photos" / split / name / f"{number}.jpg", name, 10 * index + number)
    cut = place / "photos" / "train" / "lion" / "0.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    (place / "photos" / "val" / "newt" / "9.jpg").write_text("no image")
    return place


@pytest.fixture(scope="module")
def whole(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        result = typed(f"run {TINY} --data photos --skip-bad-images --run-dir whole")
    assert result.exit_code == 0, result.output
    return place / "whole", result


@pytest.fixture(autouse=True)
def there(place, monkeypatch):
    monkeypatch.chdir(place)


def weights(path):
    found = {}
    with h5py.File(io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5")), "r") as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def read(path):
    return json.loads(path.read_text())


def refused(line, exit_code, *words):
    before = tree(Path())
    result = typed(line)
    assert result.exit_code == exit_code, result.output
    assert f"\n{result.stderr}".count("\nError: ") == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, (word, result.stderr)
    assert tree(Path()) == before


@pytest.mark.slow
def test_the_files_of_a_run_say_what_was_read(place, whole):
    run, result = whole
    photos = place / "photos"
    for line in (
        f"data: {photos}: train/, val/: 19 training, 1 validation, 8 test images, 3 classes",
        "data: there are no test images of its own: its validation images serve as the test set",
        f"data: 2 damaged images are left out (--skip-bad-images): {photos}/train/lion/0.jpg: it is damaged (image",
    ):
        assert line in result.stderr
    config = read(run / "config.json")
    assert (config["data"], config["augment"], config["crop_padding"]) == (str(photos), "resized-crop-flip", 2)
    assert (config["test"], config["skip_bad_images"]) == (0.2, True)
    data = read(run / "data.json")
    assert data["class_names"] == list(COLOURS)
    assert data["images"] == {"training": 19, "validation": 1, "test": 8}
    assert len(data["skipped"]) == 2
    result = read(run / "result.json")
    assert result["skipped_images"] == 2
    assert result["test"]["is_training_false"]["examples"] == 8


def test_its_data_is_read_again_from_anywhere_and_found_where_it_was_moved(place, whole, tmp_path, monkeypatch):
    run, photos = whole[0], place / "photos"
    monkeypatch.chdir(tmp_path)
    expected = read(run / "result.json")["test"]["is_training_false"]["correct"]
    assert json.loads(typed(f"evaluate {run} --json").stdout)["correct"] == expected
    moved = photos.rename(tmp_path / "moved")
    try:
        refused(f"evaluate {run}", 2, f"--data {photos}: there is nothing of that name")
        found = typed(f"evaluate {run} --split validation --data-dir {moved} --json")
        assert json.loads(found.stdout)["examples"] == 1
    finally:
        moved.rename(photos)


def test_changed_data_is_noticed(place, whole):
    photos = place / "photos"
    draw(photos / "val" / "lion" / "new.jpg", "lion", 99)
    try:
        refused("evaluate whole", 1, "changed since the run was started: 8 test images then, 9 now", "--data-dir")
        assert json.loads(typed(f"evaluate whole --data-dir {photos} --json").stdout)["examples"] == 9
    finally:
        (photos / "val" / "lion" / "new.jpg").unlink()
    for split in ("train", "val"):
        (photos / split / "lion").rename(photos / split / "zebra")
    try:
        refused("diagnose-bn whole", 1, "it has 'zebra', which the run has not; it lacks 'lion'")
    finally:
        for split in ("train", "val"):
            (photos / split / "zebra").rename(photos / split / "lion")


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_identically_and_notices_changed_data(place, whole):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(3, patch)
        result = typed(f"run {TINY} --data photos --skip-bad-images --run-dir parts")
    assert result.exit_code == 130, result.output
    new = place / "photos" / "train" / "lion" / "new.jpg"
    draw(new, "lion", 99)
    try:
        refused("run --resume parts --quiet", 1, "has changed since the run was started: 19 training", "put it back")
    finally:
        new.unlink()
    assert typed("run --resume parts --quiet").exit_code == 0
    one, other = weights(whole[0] / "model.keras"), weights(place / "parts" / "model.keras")
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
def test_all_changes_of_floats_are_resumed_bit_identically_and_are_in_the_card(place, whole):
    changes = "--augment crop --flip-vertical --rotate 20 --trivial-augment --color-jitter 0.4 --erase 0.5 --cutmix 1"
    line = f"run {TINY} --data photos --skip-bad-images --eval-recipe keras {changes}"
    assert typed(f"{line} --run-dir changed").exit_code == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_at(3, patch)
        assert typed(f"{line} --run-dir changed-parts").exit_code == 130
    assert typed("run --resume changed-parts --quiet").exit_code == 0
    one, other = (weights(place / name / "model.keras") for name in ("changed", "changed-parts"))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    card = (place / "changed" / "MODEL_CARD.md").read_text()
    assert (
        "`crop`, `--flip-vertical`, `--rotate 20.0`, `--trivial-augment`, `--color-jitter 0.4`, `--erase 0.5`" in card
    )


def test_what_will_not_do_is_one_message_and_leaves_nothing(place, tmp_path):
    path = place / "photos" / "train" / "lion" / "0.jpg"
    refused(f"run {TINY} --data photos", 1, f"2 of 30 images cannot be used: {path}", "truncated", "--skip-bad-images")
    refused(f"run {TINY} --data photos/trian", 2, "photos/trian: there is nothing of that name")
    refused(f"run {TINY} --data photos/train/wasp", 1, "holds images, but no class folders")
    refused(f"run {TINY} --data photos --test 1", 2, "--test 1", "0.999")
    refused(f"run {TINY} --data photos --augment resized-crop-flips", 2, "did you mean resized-crop-flip?")
    shutil.copytree(place / "photos" / "train" / "newt", tmp_path / "one" / "newt")
    refused(f"run {TINY} --data {tmp_path / 'one'}", 1, "holds images in one folder only, newt")
    np.savez(tmp_path / "some.npz", x=np.zeros(3))
    refused(f"run {TINY} --data {tmp_path / 'some.npz'}", 1, "some.npz holds x: expected x_train and y_train")
