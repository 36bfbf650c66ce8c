"""Write the run directories that `tests/commands/test_old_runs.py` reads, by the version of finetune that is installed.

    python tests/commands/old_runs/make.py FORMAT

writes `format-FORMAT/` beside this file: `data.npz`, a thin network `backbone.keras`, and of runs on them `finished`,
and `stopped` at its fourth step. To be called once per format version, by the release that introduced it, and never for
one that is there: the files are what that release left, not what today's writes. Absolute paths in them are under
`PLACE`, which the test replaces, as if the user's files were where they had been.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PLACE = "/where/it/was"
"""In place of the directory the runs were made in."""
HERE = Path(__file__).parent
NAMES = ("amber", "birch", "cedar")

SETTINGS = (
    "--epochs 4 --image-size 16 --batch-size 8 --validation 0.2 --learning-rate 0.03 "
    "--freeze stem* --bn stem_bn=freeze "
    "--augment none --preprocess unit --deterministic --seed 3"
)

STOPPED = """
import os, signal, sys
from finetune.cli import main
from finetune.cli.display_training import ConsoleDisplay
own = ConsoleDisplay.step

def step(self, **values):
    own(self, **values)
    if values["step"] == 4:
        os.kill(os.getpid(), signal.SIGINT)

ConsoleDisplay.step = step
main(sys.argv[1:], prog_name="finetune")
"""


def write_data(path: Path) -> None:
    """Images of 16 px in three colours, with noise enough for mistakes."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 40), ("test", 21)):
        labels = np.arange(count) % len(NAMES)
        images = rng.integers(0, 200, (count, 16, 16, 3))
        images[np.arange(count), :, :, labels] += 60
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    np.savez_compressed(path, **arrays, class_names=np.array(NAMES))


def write_backbone(path: Path) -> None:
    """Two convolutions with BatchNorm."""
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(6, 3, strides=2, use_bias=False, name="stem")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="stem_bn")(x))
    x = keras.layers.Conv2D(8, 3, use_bias=False, name="body")(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="body_bn")(x))
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="thin").save(path)


def move(folder: Path, before: str, after: str) -> None:
    """Replace the path `before` by `after` in every file of runs that names one."""
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".md", ".csv"):
            path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
        elif path.name == "state.npz":
            with np.load(path) as kept:
                arrays = dict(kept)
            notes = arrays["notes"].tobytes().replace(before.encode(), after.encode())
            np.savez(path, **{**arrays, "notes": np.frombuffer(notes, np.uint8)})


def main(version: int) -> None:
    """Refuses to write over what is there."""
    target = HERE / f"format-{version}"
    if target.exists():
        raise SystemExit(f"{target} is there, and is what that version of finetune wrote: it is not made again")
    # Not a random name: the card writes some characters of a path in another way.
    place = Path(tempfile.gettempdir()).resolve() / f"old-runs-{os.getpid()}" / target.name
    place.mkdir(parents=True)
    try:
        write_data(place / "data.npz")
        write_backbone(place / "backbone.keras")
        line = f"run --backbone {place}/backbone.keras --data {place}/data.npz {SETTINGS} --quiet --run-dir {place}/"
        quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "FINETUNE_HOME": f"{place.parent}/home"}
        subprocess.run([sys.executable, "-m", "finetune", *f"{line}finished".split()], check=True, env=quiet)
        stopped = subprocess.run([sys.executable, "-c", STOPPED, *f"{line}stopped".split()], env=quiet)
        if stopped.returncode != 128 + signal.SIGINT:
            raise SystemExit(f"the run that was to be stopped ended with {stopped.returncode}")
        move(place, str(place), f"{PLACE}/{target.name}")
        for path in place.rglob("environment.json"):  # what the maker's machine is called is nobody's business
            path.write_text(json.dumps({**json.loads(path.read_text()), "platform": "Linux"}, indent=2) + "\n")
        for path in place.rglob(".lock"):
            path.unlink()
        shutil.copytree(place, target)
    finally:
        shutil.rmtree(place.parent)


if __name__ == "__main__":
    main(int(sys.argv[1]))
