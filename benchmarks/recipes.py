"""The recipes of docs/recipes.md on real data: CIFAR-10 as it is, and photos split anew five times, the mean of these.

Every run is a process of its own, one after another.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

SHARED = ("--freeze-until", "Conv2d_3", "--lr", "0.0005", "--label-smoothing", "0.1")
RECIPES = {
    "cifar10": (*SHARED, "--image-size", "160", "--epochs", "6"),
    "photos": (*SHARED, "--epochs", "20"),
}
SPLITS = 5


def split_anew(photos: Path, folder: Path, test: int) -> Iterator[Path]:
    """The class folders of `train/` and `val/` in `photos` together, as links: `test` images a class in `val/`."""
    classes = sorted(place.name for place in (photos / "train").iterdir())
    for number in range(SPLITS):
        place = folder / f"split{number}"
        for name in classes:
            images = sorted(path for split in ("train", "val") for path in (photos / split / name).iterdir())
            random.Random(100 + number).shuffle(images)
            for at, path in enumerate(images):
                link = place / ("val" if at < test else "train") / name / f"{at}_{path.name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
        yield place


def run(data, checkpoint, run_dir, *options):
    """(test accuracy with `is_training=False`, seconds of training) of a run."""
    command = [
        *(sys.executable, "-m", "finetune", "run", "--backbone", "mobilenet_v1_1.0", "--checkpoint", checkpoint),
        *("--run-dir", str(run_dir), "--json", "--quiet", *data, *options),
    ]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return result["test"]["is_training_false"]["accuracy"], result["train_seconds"]


@click.command()
@click.option("--slim-checkpoint", required=True, help="mobilenet_v1_1.0_224.ckpt")
@click.option("--cifar10", help="Holds cifar-10-batches-py/.")
@click.option("--photos", type=Path, help="Holds train/ and val/ with a folder of photos for each class.")
@click.option("--test", default=20, show_default=True, help="Test photos of each class in a re-split.")
def main(slim_checkpoint, cifar10, photos, test):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if cifar10:
            data = ("--data", "cifar10", "--data-dir", cifar10)
            accuracy, seconds = run(data, slim_checkpoint, place / "cifar10", *RECIPES["cifar10"])
            click.echo(f"CIFAR-10: {accuracy:.1%} in {seconds:.0f} s")
        if photos:
            found = []
            for number, split in enumerate(split_anew(photos, place, test)):
                data = ("--data", str(split), "--validation", "0")
                found.append(run(data, slim_checkpoint, place / f"run{number}", *RECIPES["photos"]))
                click.echo(f"split {number}: {found[-1][0]:.1%} in {found[-1][1]:.0f} s")
            accuracies, seconds = zip(*found, strict=True)
            spread = statistics.stdev(accuracies)
            click.echo(f"mean {statistics.fmean(accuracies):.1%} (standard deviation {spread:.1%}), "
                       f"{statistics.fmean(seconds):.0f} s each")  # fmt: skip


if __name__ == "__main__":
    main()
