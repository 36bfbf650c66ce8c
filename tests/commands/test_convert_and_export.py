"""`finetune checkpoint convert` and `finetune export` as typed."""

import json
from pathlib import Path

import numpy as np
import pytest

from checkpoints import store
from checkpoints.catalog.lookup import find_row
from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import write_slim
from tests.support.commands import tree, typed


@pytest.fixture(scope="module")
def slim() -> Path:
    return store.locate(find_row("resnet_v1_demo"), with_head=True)


@pytest.mark.slow
def test_there_and_back(slim: Path, tmp_path: Path) -> None:
    there = typed(f"checkpoint convert {slim} {tmp_path}/new/demo.weights.h5")
    assert there.exit_code == 0, there.output
    assert there.stdout == (
        f"{tmp_path}/new/demo.weights.h5 (keras-weights-h5): 112 variables of bundled/resnet_v1_demo, 20 outputs, "
        f"from {slim} (slim-v2)\n"
    )
    back = typed(f"checkpoint convert {tmp_path}/new/demo.weights.h5 {tmp_path}/demo.ckpt --json")
    assert json.loads(back.stdout)["variables"] == 112
    before, after = open_checkpoint(slim), open_checkpoint(tmp_path / "demo.ckpt")
    assert all(before.read(name).tobytes() == after.read(name).tobytes() for name in before.shapes)
    assert set(after.shapes) == set(before.shapes)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "demo.ckpt.data-00000-of-00001",
        "demo.ckpt.index",
        "new",
    ]


def test_a_backbone_keeps_its_own_variables_only(slim: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(slim)
    arrays = {name: opened.read(name) for name in opened.shapes}
    write_slim(tmp_path / "run.ckpt", {**arrays, "beta1_power": np.float32(0.5)})
    whole = typed(f"checkpoint convert {tmp_path}/run.ckpt {tmp_path}/whole.ckpt --json")
    assert json.loads(whole.stdout)["variables"] == 113
    bare = typed(f"checkpoint convert {tmp_path}/run.ckpt {tmp_path}/bare.ckpt --backbone resnet_v1_demo")
    assert "112 variables of bundled/resnet_v1_demo" in bare.stdout
    assert "not carried over: 1 optimizer slots (beta1_power)" in bare.stdout
    assert "beta1_power" not in open_checkpoint(tmp_path / "bare.ckpt").shapes


@pytest.mark.parametrize(
    ("line", "exit_code", "words"),
    [
        ("checkpoint convert SLIM OUT/there.keras", 2, "is already there and is not overwritten"),
        ("checkpoint convert SLIM OUT/x.h5", 2, "ends in .h5, which is not written"),
        ("checkpoint convert OUT/none.ckpt OUT/x.keras", 1, "there is no checkpoint"),
        ("checkpoint convert SLIM OUT/x.keras --backbone resnet_v1_dem", 2, "did you mean resnet_v1_demo"),
        ("checkpoint convert SLIM OUT/x.keras --backbone slim/resnet_v1_50", 1, "does not fit the network"),
        ("export OUT --format slim --out OUT/x", 1, "is no run"),
        ("export OUT --format coreml --out OUT/x", 2, "'coreml' is not one of"),
        ("export OUT --out OUT/x", 2, "Missing option '--format'"),
    ],
)
def test_what_will_not_do_is_one_message_and_no_file(
    line: str, exit_code: int, words: str, slim: Path, tmp_path: Path
) -> None:
    (tmp_path / "there.keras").write_text("mine")
    before = tree(tmp_path)
    result = typed(line.replace("SLIM", str(slim)).replace("OUT", str(tmp_path)))
    assert result.exit_code == exit_code
    assert words in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("Error:") == 1
    assert tree(tmp_path) == before


def test_a_run_is_exported(finished: tuple, tmp_path: Path) -> None:
    run, _ = finished
    result = typed(f"export {run} --format slim --out {tmp_path}/out/model.ckpt --no-evaluation")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{tmp_path}/out/model.ckpt: 112 variables of bundled/resnet_v1_demo with ")
    assert lines[1] == "files: model.ckpt.index, model.ckpt.data-00000-of-00001, checkpoint, labels.txt"
    assert lines[2] == "note: feed images of 16 px with the preprocessing 'inception'"
    again = typed(f"export {run} --format slim --out {tmp_path}/out/other.ckpt --json")
    assert again.exit_code == 2
    assert "checkpoint is already there and is not overwritten: give an --out in a directory of its own" in again.stderr
    # What was exported is a backbone again, with its own classes.
    shown = typed(f"backbones verify {tmp_path}/out --json")
    found = json.loads(shown.stdout)
    assert (found["backbone"], found["reference"]["outputs"], found["reference"]["agrees"]) == (
        "bundled/resnet_v1_demo",
        "logits",
        True,
    )


@pytest.mark.slow
def test_exports_are_tried_out_and_the_table_says_so(finished: tuple, tmp_path: Path) -> None:
    run, _ = finished
    result = typed(f"export {run} --format tflite --out {tmp_path}/m.tflite --images 100 --quiet")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert next(row for row in rows if row[:1] == ["tflite"])[2:4] == ["+0.00%", "100.00%"]
    assert "100 test images, each export in its own runtime" in result.stdout
    as_json = typed(f"export {run} --format keras --format slim --out {tmp_path}/two --images 100 --json")
    told = json.loads(as_json.stdout)
    assert [one["format"] for one in told["exports"]] == ["keras", "slim"]
    assert all(one["evaluation"]["agreement"] == 1.0 for one in told["exports"])
    assert told["run"]["accuracy"] == told["exports"][0]["evaluation"]["accuracy"]


@pytest.mark.slow
def test_an_accuracy_not_reached_is_exit_1_and_no_file(finished: tuple, tmp_path: Path) -> None:
    line = f"export {finished[0]} --format keras --format onnx --out {tmp_path}/new --images 50 --assert-accuracy 1"
    result = typed(line)
    assert result.exit_code == 1
    assert "--assert-accuracy 1: the keras export has 0." in result.stderr
    assert tree(tmp_path) == {}
    assert typed(line.replace("accuracy 1", "accuracy 90")).exit_code == 2
