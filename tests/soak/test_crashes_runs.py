"""A run that is killed at any moment, as often as one likes, and resumed, ends as the unbroken run."""

import csv
import io
import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed_process import Ended, Killable

SETTINGS = (
    "--data demo-target --examples 60 --epochs 3 --image-size 12 --batch-size 10 --learning-rate 0.01 --deterministic "
    "--quiet"
)
WAYS = {
    "averaged": "--dropout 0.2 --ema 0.9 --diagnose-every 2",
    "features cached": "--preset linear-probe --cache-features on",
    "layers unfrozen one after another": "--unfreeze-epochs 2 --patience 3 --validation 0.2",
    "trackers": "--tracker tensorboard --hidden 4",
}
UNEQUAL = ("seconds", "train_seconds", "images_per_second", "peak_memory_mib")
"""What no two runs have in common, killed or not."""
_BACKBONE = """
import sys, keras
keras.utils.set_random_seed(0)
layers = keras.layers
x = start = keras.Input((12, 12, 3))
x = layers.Rescaling(1 / 127.5, -1)(x)
for number, filters in ((1, 6), (2, 8)):
    x = layers.Conv2D(filters, 3, strides=2, use_bias=False, name=f"conv{number}")(x)
    x = layers.ReLU()(layers.BatchNormalization(name=f"bn{number}")(x))
keras.Model(start, layers.GlobalAveragePooling2D()(x)).save(sys.argv[1])
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "tiny.keras"
    subprocess.run([sys.executable, "-c", _BACKBONE, path], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    process = Killable(tmp_path_factory.mktemp("killed"))
    yield process
    process.close()


def weights(path: Path) -> dict[str, np.ndarray]:
    """Every array in a `.keras` file, by its place."""
    import h5py

    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as file, h5py.File(io.BytesIO(file.read("model.weights.h5"))) as opened:
        opened.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items() if name not in UNEQUAL}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def content(run: Path) -> dict[str, Any]:
    """All that a run says, in a form that compares: names of files, numbers of lines, numbers, weights."""
    said: dict[str, Any] = {"files": sorted(str(path.relative_to(run)) for path in run.rglob("*"))}
    said["files"] = [name for name in said["files"] if "events.out" not in name]
    for name in ("result.json", "freeze.json", "data.json", "config.json", "load.json"):
        said[name] = without_times(json.loads((run / name).read_text()))
    said["metrics.jsonl"] = [
        without_times(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    rows = list(csv.DictReader(io.StringIO((run / "metrics.csv").read_text())))
    said["metrics.csv"] = [{name: value for name, value in row.items() if name not in UNEQUAL} for row in rows]
    with np.load(run / "predictions.npz") as file:
        said["predictions"] = {name: file[name].tobytes() for name in file.files}
    for path in sorted(run.glob("*.keras")):
        said[path.name] = {name: value.tobytes() for name, value in weights(path).items()}
    return said


def leftovers(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(".*") if path.name not in (".lock",)]


def goes_on(start: str, run: Path) -> str:
    """What the user types after a crash."""
    return f"run --resume {run} --quiet" if (run / "config.json").exists() else start


def killed_until(finetune: Killable, start: str, run: Path, kills: int, *, seed: int, anew: Any) -> Iterator[Ended]:
    """Kill `kills` times, and let the run end whenever it survives: yields every end that is no kill."""
    rng = random.Random(seed)
    done = 0
    while True:
        # Of a run that was resumed, fewer moments are left; drawn beyond the last one, it ends.
        moment = (rng.randint(1, 60), rng.choice((0, 0, 0.2, 1, 5, 40))) if done < kills else None
        ended = finetune(goes_on(start, run), kill=moment)
        if ended.killed:
            done += 1
            MOMENTS.append(ended.events[0] if ended.events else "?")
            continue
        yield ended
        if done >= kills:
            return
        anew()


MOMENTS: list[str] = []


def check(finetune: Killable, backbone: Path, way: str, *, kills: int, seed: int) -> None:
    whole, run = finetune.folder / "whole", finetune.folder / "run"
    for path in (whole, run, finetune.home):
        shutil.rmtree(path, ignore_errors=True)
    line = f"run --backbone {backbone} {SETTINGS} {WAYS[way]} --run-dir "
    ended = finetune(line + str(whole))
    assert ended.code == 0, ended.output
    expected = content(whole)
    assert leftovers(finetune.folder) == []

    def anew() -> None:
        for path in (run, finetune.home):
            shutil.rmtree(path, ignore_errors=True)

    anew()
    compared = 0
    for ended in killed_until(finetune, line + str(run), run, kills, seed=seed, anew=anew):
        assert ended.code == 0, (ended.output, MOMENTS[-5:])
        found = content(run)
        if way == "features cached":  # how many of them were computed, and how many were there
            for one in (expected, found):
                one["result.json"].pop("cached_features", None)
        for name, value in expected.items():
            assert found[name] == value, (name, MOMENTS[-5:])
        assert leftovers(finetune.folder) == []
        again = finetune(f"run --resume {run}")
        assert (again.code, "is finished: nothing to do" in again.output) == (0, True)
        compared += 1
    assert compared


def test_five_kills(finetune: Killable, backbone: Path) -> None:
    check(finetune, backbone, "averaged", kills=5, seed=3)


@pytest.mark.soak
@pytest.mark.parametrize("way", WAYS)
def test_fifty_kills(finetune: Killable, backbone: Path, way: str) -> None:
    MOMENTS.clear()
    check(finetune, backbone, way, kills=50, seed=20_261)
    names = [moment.rpartition("/")[2] for moment in MOMENTS]
    print(way, {name: names.count(name) for name in sorted(set(names))})
    assert {".tmp.state.npz", ".tmp.metrics.jsonl"} <= set(names)


@pytest.mark.soak
@pytest.mark.parametrize("way", ["averaged", "features cached"])
def test_killed_before_during_and_after_every_single_file(finetune: Killable, backbone: Path, way: str) -> None:
    """Not at random: once at each kind of event of each file, from the first directory to the last remove."""
    whole, run = finetune.folder / "whole", finetune.folder / "run"
    for path in (whole, run, finetune.home):
        shutil.rmtree(path, ignore_errors=True)
    line = f"run --backbone {backbone} {SETTINGS} {WAYS[way]} --run-dir "
    events = finetune(line + str(run)).events
    shutil.copytree(run, whole)
    expected = content(whole)
    moments = {event.replace(str(run), ""): number for number, event in enumerate(events, 1)}
    assert len(moments) > 40
    for number in sorted(moments.values()):
        for delay in (0, 0.3):
            for path in (run, finetune.home):
                shutil.rmtree(path, ignore_errors=True)
            finetune(line + str(run), kill=(number, delay))
            ended = finetune(goes_on(line + str(run), run))
            assert ended.code == 0, (events[number - 1], ended.output)
            found = content(run)
            for name in ("files", "metrics.jsonl", "metrics.csv", "predictions", "model.keras"):
                assert found[name] == expected[name], (name, events[number - 1])
            assert leftovers(finetune.folder) == [], events[number - 1]
