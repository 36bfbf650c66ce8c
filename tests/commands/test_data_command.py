"""`finetune data check` and `finetune data preview` as typed, and a run that leaves out what they found."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import finetune
from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.load_data import load_data
from finetune.runs.preview import augmented, completed
from tests.support.commands import typed
from tests.support.written_photos import write_splits


@pytest.fixture
def photos(tmp_path):
    """Folders of photos, each with noise of its own, and some faults."""
    folder = tmp_path / "photos"
    write_splits(folder, train=8, test=6)
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        coarse = np.random.default_rng(number).integers(20, 236, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(path, quality=95)
    train, test = folder / "train", folder / "test"
    shutil.copy(train / "lion" / "000.jpg", train / "wasp" / "wrong.jpg")
    shutil.copy(test / "newt" / "002.jpg", train / "newt" / "leak.jpg")
    (train / "newt" / "broken.jpg").write_bytes((train / "newt" / "001.jpg").read_bytes()[:300])
    Image.new("L", (48, 40), 7).save(train / "wasp" / "black.png")
    return folder


def said(line):
    result = typed(line)
    assert result.exit_code == 0, result.output
    return result


def test_what_is_wrong_is_found_written_and_left_out(photos, tmp_path):
    out = tmp_path / "new" / "check"
    shown = said(f"data check {photos} --backbone none --out {out}").stdout
    assert re.search(r"duplicate +4 +train and test: 1 +train/", shown)
    assert "labels: not checked: --backbone none" in shown
    assert sorted(path.name for path in out.iterdir()) == ["check.json", "exclude.txt", "index.html"]
    value = json.loads((out / "check.json").read_text())
    counts = {row["kind"]: row["images"] for row in value["findings"]}
    assert (counts["unreadable"], counts["duplicate"], counts["conflicting-labels"], counts["flat"]) == (1, 4, 2, 1)
    assert value["images"] == {"train": 27, "test": 18}
    assert value["class_counts"]["train"] == [8, 9, 10]
    left = [line.split("\t")[0] for line in (out / "exclude.txt").read_text().splitlines() if line[0] != "#"]
    assert left[0] == "train/newt/broken.jpg"
    assert sorted(left[1:]) == ["train/lion/000.jpg", "train/newt/leak.jpg", "train/wasp/wrong.jpg"]
    page = (out / "index.html").read_text()
    assert page.count('<img src="data:image/') == 7
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing is fetched
    again = json.loads(said(f"data check {photos} --backbone none --exclude {out}/exclude.txt --json").stdout)
    assert {row["kind"]: row["images"] for row in again["findings"] if row["images"]} == {"flat": 1}
    assert typed(f"data check {photos} --backbone none --out {out}").exit_code == 2


@pytest.mark.slow
def test_from_python_it_is_the_same(photos, tmp_path):
    found = finetune.check_data(photos, backbone="none", test=0.3, leave_out="unreadable", out=tmp_path / "new")
    value = json.loads(said(f"data check {photos} --backbone none --test 0.3 --leave-out unreadable --json").stdout)
    assert json.loads((tmp_path / "new" / "check.json").read_text()) == found.value == value
    assert found.exclude == (tmp_path / "new" / "exclude.txt").read_text()
    assert repr(found).splitlines()[0] == "unreadable: 1, cannot be decoded"
    assert repr(found).splitlines()[-1] == "labels: not checked: backbone='none'"
    assert found._repr_html_().startswith("<iframe srcdoc=")
    with pytest.raises(finetune.WrongUse, match="unknown option epochs: expected some of data_dir"):
        finetune.check_data(photos, epochs=3)
    with pytest.raises(finetune.WrongUse, match="leave_out blurry: expected some of unreadable"):
        finetune.check_data(photos, leave_out=["blurry"])
    with pytest.raises(finetune.WrongUse, match=r"out .* is already there"):
        finetune.check_data(photos, out=tmp_path)


def test_a_run_keeps_its_list(photos, tmp_path):
    listed = tmp_path / "exclude.txt"
    listed.write_text("train/newt/broken.jpg\ntrain/newt/leak.jpg\n")
    settings = "--epochs 1 --image-size 16 --batch-size 8 --learning-rate 0.003"
    line = f"run --backbone TINY_FILE --data {photos} {settings}"
    said(f"{line} --exclude {listed} --run-dir {tmp_path}/run")
    listed.unlink()
    first = json.loads(said(f"evaluate {tmp_path}/run --json").stdout)
    said(f"run --config {tmp_path}/run/config.json --run-dir {tmp_path}/again")
    assert json.loads((tmp_path / "again" / "data.json").read_text())["images"]["training"] == 25
    assert json.loads(said(f"evaluate {tmp_path}/again --json").stdout)["accuracy"] == first["accuracy"]
    page = tmp_path / "page.html"
    said(f"report {tmp_path}/again --html {page} --augmented 5")
    assert page.read_text().count("<figcaption>newt</figcaption>") >= 1
    assert f"finetune data check {photos} --out FOLDER" in page.read_text()
    (tmp_path / "run" / "exclude.txt").write_text("train/newt/broken.jpg\ntrain/newt/002.jpg\n")
    changed = typed(f"evaluate {tmp_path}/run")
    assert (changed.exit_code, "another list of images is left out (--exclude)" in changed.stderr) == (1, True)


def test_suspect_labels_and_drift(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    photos = write_splits(tmp_path / "photos", train=24, test=8)
    shutil.copy(photos / "test" / "newt" / "000.jpg", photos / "train" / "lion" / "newt.jpg")
    line = f"data check {photos} --backbone TINY_FILE --image-size 16"
    value = json.loads(said(f"{line} --json").stdout)
    assert value["labels"]["accuracy"] > 0.95
    (row,) = (row for row in value["findings"] if row["kind"] == "suspect-label")
    assert row["listed"][0]["image"] == "train/lion/newt.jpg"
    assert row["listed"][0]["note"] == "labelled lion, looks like newt"
    assert row["listed"][0]["value"] < 0.2
    assert value["drift"]["images"] == [73, 24]
    assert not value["drift"]["differs"]
    dark = write_splits(tmp_path / "dark", train=24, test=8)
    for path in (dark / "test").rglob("*.jpg"):
        with Image.open(path) as image:
            image.point(lambda grey: grey // 2).save(path)
    shown = said(f"{line.replace(str(photos), str(dark))} --suspects 0").stdout
    assert "drift: training and test images differ: a classifier that tells them apart has an AUC of " in shown
    assert re.search(r"suspect-label +0", shown)


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 1), (24, 20, 4)])
def test_grey_and_four_channels_in_memory(tmp_path, shape):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, *shape), np.uint8)
    images[7] = images[3]
    labels = np.arange(30) % 2
    np.savez(tmp_path / "some.npz", x_train=images, y_train=labels)
    value = json.loads(said(f"data check {tmp_path}/some.npz --backbone none --out {tmp_path}/out --json").stdout)
    counts = {row["kind"]: row["images"] for row in value["findings"]}
    assert (counts["duplicate"], counts["near-duplicate"], counts["unreadable"]) == (2, 0, 0)
    again = json.loads(
        said(f"data check {tmp_path}/some.npz --backbone none --exclude {tmp_path}/out/exclude.txt --json").stdout
    )
    assert sum(again["images"].values()) == 29
    other = typed(f"data check {tmp_path}/some.npz --backbone none --exclude {tmp_path}/out/exclude.txt --seed 5")
    assert (other.exit_code, "--seed or --test" in other.stderr or "none of" in other.stderr) in ((1, True), (0, False))


def test_a_preview_is_the_first_batch_of_the_run(tmp_path):
    line = "data preview demo-target --backbone resnet_v1_demo --image-size 16 --cutmix 1 --images 20"
    found = json.loads(said(f"{line} --out {tmp_path}/new/sheet.png --json").stdout)
    assert len(found["labels"]) == 20
    assert any("%" in label for label in found["labels"])
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.width == 8 * (64 + 4)
    said(f"{line} --out {tmp_path}/sheet.html")
    assert (tmp_path / "sheet.html").read_text().count("<img") == 20
    config = RunConfig("resnet_v1_demo", data="demo-target", image_size=16, preprocess="unit")
    dataset = load_data(config)
    config = completed(config, dataset)
    seen = augmented(config, dataset, images=70)
    images, labels = (np.asarray(one) for one in next(iter(batches.training(dataset.train, config, epoch=0, start=0))))
    assert len(seen.images) == 70
    assert np.abs(seen.images[: len(images)] / 255 - images).max() < 1 / 255
    assert seen.labels[: len(labels)] == [dataset.class_names[one] for one in labels]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("data preview demo-target --out x.jpg", "ends in .png or .html"),
        ("data check nothing/here --backbone none", "there is nothing of that name"),
        ("data check demo-source --backbone none --exclude missing.txt", "there is no such file"),
        ("report some --augmented 3", "give --html FILE with it"),
    ],
)
def test_what_will_not_do(line, words):
    result = typed(line)
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


def test_without_scikit_learn_the_rest_is_done(monkeypatch, tmp_path):
    monkeypatch.setattr("finetune.evaluation.linear_probe.is_available", lambda: False)
    value = json.loads(said("data check demo-target --json").stdout)
    assert value["labels"]["reason"].startswith("scikit-learn is not installed: pip install")
    asked = typed("data check demo-target --backbone resnet_v1_demo")
    assert (asked.exit_code, "need scikit-learn" in asked.stderr) == (2, True)
