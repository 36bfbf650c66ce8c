"""What a run says and holds, in a form that compares; what is left behind; what a user types to go on."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = (
    "--data demo-target --examples 60 --epochs 3 --image-size 12 --batch-size 10 --learning-rate 0.01 --deterministic "
    "--quiet"
)
UNEQUAL = ("seconds", "train_seconds", "images_per_second", "peak_memory_mib")
"""What no two runs have in common, killed or not."""


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
