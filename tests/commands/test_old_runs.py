"""Run directories that released versions left, read by this one; those of a later one are refused."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune._version import __version__, install_line
from finetune.runs.directory import FORMAT_VERSION
from tests.support.commands import typed
from tests.support.warm_process import WarmProcess

OLD = Path(__file__).parent / "old_runs"
MAKER = runpy.run_path(str(OLD / "make.py"))
FORMATS = sorted(int(path.name.removeprefix("format-")) for path in OLD.glob("format-*"))


@pytest.fixture(params=FORMATS, ids=lambda number: f"format {number}")
def old(request, tmp_path):
    """A copy of one release's runs, their data and backbone where they say."""
    place = tmp_path / f"format-{request.param}"
    shutil.copytree(OLD / place.name, place)
    MAKER["move"](place, f"{MAKER['PLACE']}/{place.name}", str(place))
    return place


def result(run):
    return json.loads((run / "result.json").read_text())


def test_there_are_runs_of_every_format():
    assert list(range(1, FORMAT_VERSION + 1)) == FORMATS
    assert sum(path.stat().st_size for path in OLD.rglob("*") if path.is_file()) < 200_000 * len(FORMATS)


def test_report(old):
    answer = typed(f"report {old}/finished {old}/stopped --json")
    assert answer.exit_code == 0, answer.output
    finished, stopped = sorted(json.loads(answer.stdout)["runs"], key=lambda one: one["name"])
    kept = result(old / "finished")
    assert finished["test"] == kept["test"]
    assert finished["proof"]["holds"]
    assert len(finished["epochs"]) == kept["epochs"] == 4
    assert [one["name"] for one in finished["classes"]] == ["amber", "birch", "cedar"]
    right = sum(finished["confusion"][index][index] for index in range(3))
    assert right == kept["test"]["is_training_false"]["correct"]
    assert (stopped["status"], stopped["test"]) == ("interrupted", None)
    assert typed(f"report {old}/finished --html {old}/page.html").exit_code == 0


def test_evaluate_finds_what_the_run_had_found(old):
    kept = result(old / "finished")["test"]
    assert 0.4 < kept["is_training_false"]["accuracy"] < 0.95  # neither chance nor all
    for mode in ("false", "true"):
        answer = typed(f"evaluate {old}/finished --is-training {mode} --json")
        assert answer.exit_code == 0, answer.output
        found, then = json.loads(answer.stdout), kept[f"is_training_{mode}"]
        assert (found["examples"], found["correct"]) == (then["examples"], then["correct"])
        assert found["loss"] == pytest.approx(then["loss"], rel=1e-4)


def test_predict_says_of_each_image_what_the_run_had_said(old):
    with np.load(old / "data.npz") as data, np.load(old / "finished/predictions.npz") as said:
        expected = said["top_classes"][:5, 0].tolist()
        (old / "images").mkdir()
        for number, pixels in enumerate(data["x_test"][:5]):
            Image.fromarray(pixels).save(old / "images" / f"{number}.png")
    answer = typed(f"predict {old}/finished {old}/images --json")
    assert answer.exit_code == 0, answer.output
    rows = json.loads(answer.stdout)["images"]
    names = result(old / "finished")["class_names"]
    assert [names.index(row["classes"][0]["class"]) for row in rows] == expected


def test_a_finished_run_is_finished(old):
    before = (old / "finished/result.json").read_bytes()
    answer = typed(f"run --resume {old}/finished")
    assert answer.exit_code == 0, answer.output
    assert f"{old}/finished is finished: nothing to do" in answer.stderr
    assert (old / "finished/result.json").read_bytes() == before


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_what_the_unbroken_one_had_reached(old):
    # A process of its own: the run is deterministic, and that cannot be switched off again.
    answer = WarmProcess("", "run", "--resume", str(old / "stopped"), "--quiet", module="finetune")
    _, stderr = answer.communicate()
    assert answer.returncode == 0, stderr
    finished, resumed = result(old / "finished"), result(old / "stopped")
    assert resumed["proof"] == {**finished["proof"], "without_gradient": 0}
    for mode in ("is_training_false", "is_training_true"):
        assert resumed["test"][mode]["loss"] == pytest.approx(finished["test"][mode]["loss"], rel=1e-3)
    assert (resumed["steps"], resumed["epochs"]) == (16, 4)


def test_diagnose(old):
    answer = typed(f"diagnose-bn {old}/finished --json")
    assert answer.exit_code == 0, answer.output
    assert json.loads((old / "finished/bn.json").read_text())


NEXT = FORMAT_VERSION + 1


@pytest.mark.parametrize(
    "line",
    [
        "report RUN",
        "evaluate RUN",
        "evaluate RUN/model.keras",
        "predict RUN IMAGE",
        "run --resume RUN",
        "run --config RUN/config.json",
        "diagnose-bn RUN",
        "recalibrate-bn RUN",
        "export RUN --format keras --out OUT.keras",
        "features RUN --layer body --out OUT.npz",
    ],
)
def test_a_run_of_a_later_format_is_refused_and_says_who_wrote_it(line, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(OLD / f"format-{FORMATS[-1]}/finished", run)
    for name, change in (
        ("config.json", {"format_version": NEXT, "something_new": 3}),
        ("environment.json", {"packages": {"finetune-backbones": "7.8.9"}}),
    ):
        (run / name).write_text(json.dumps({**json.loads((run / name).read_text()), **change}))
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    words = line.replace("RUN", str(run)).replace("IMAGE", f"{tmp_path}/a.png").replace("OUT", f"{tmp_path}/out")
    answer = typed(words)
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert answer.stderr.count("Error: ") == 1
    assert (
        f"{run}/config.json has format_version {NEXT}, written by finetune 7.8.9, but this is finetune {__version__}, "
        f"which reads up to {FORMAT_VERSION}: upgrade it with: {install_line(options='--upgrade')}\n"
    ) in answer.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("environment", [None, "{", "[]", '{"packages": 3}', '{"packages": {"finetune-backbones": 2}}'])
def test_who_wrote_it_is_not_needed_to_refuse_it(environment, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format_version": NEXT}))
    if environment is not None:
        (tmp_path / "environment.json").write_text(environment)
    answer = typed(f"report {tmp_path}")
    assert answer.exit_code == 1
    assert "written by a newer finetune, but this is" in answer.stderr


@pytest.mark.parametrize("version", [0, -1, True, 1.5, "1", None, []])
def test_a_format_that_is_no_number_of_one_is_damage(version, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format_version": version, "backbone": "resnet_v1_demo"}))
    answer = typed(f"report {tmp_path}")
    assert answer.exit_code == 1
    assert f"format_version {version!r}, expected a number from 1 to {FORMAT_VERSION}: it is damaged" in answer.stderr
