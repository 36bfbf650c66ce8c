"""Sixteen head-only jobs on one frozen backbone against one: whole `finetune batch` calls, each on an empty cache.

The jobs differ in learning rate, weight decay and seed. Seconds are those of the whole command. Then `--check` of the
jobs run with and without cached features on fewer images: they must answer the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from finetune.data.dataset import stratified_subset
from finetune.data.load_data import read_source
from finetune.data.sources.assembly import ReadOptions

_RATES, _DECAYS, _SEEDS = [0.0003, 0.001, 0.003, 0.01], [0.01, 0.1], [0, 1]


def main():
    options = _options()
    with tempfile.TemporaryDirectory(prefix="sixteen-jobs-") as scratch:
        work = Path(scratch)
        _images(options, work / "all.npz", options.examples)
        _images(options, work / "few.npz", options.check_examples)
        options.checkpoint = options.checkpoint or _weights(options.backbone, work)
        one = _batch(work / "one", options, "all", _RATES[:1], _DECAYS[:1], _SEEDS[:1])
        _print("1 job", one)
        many = _batch(work / "many", options, "all", _RATES, _DECAYS, _SEEDS)
        _print("16 jobs", many)
        ratio = many["wall"] / one["wall"]
        print(f"16 jobs / 1 job: {ratio:.2f} times the seconds", flush=True)
        each = (many["wall"] - one["wall"]) / 15
        print(f"each job beyond the first: {each:.1f} s", flush=True)
        if options.check:
            _check(work, options)
        if ratio > 2:
            raise SystemExit("16 jobs cost more than twice one job")


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="holds cifar-10-batches-py/")
    parser.add_argument("--backbone", default="keras/resnet50")
    parser.add_argument(
        "--checkpoint", type=Path, help="its weights; without, random ones in a file: as slow, and as exact"
    )
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--test-images", type=int, default=1_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--check", type=int, default=4, help="jobs run without cached features; 0 leaves that out")
    parser.add_argument("--check-examples", type=int, default=500)
    return parser.parse_args()


def _images(options, path, examples):
    data = read_source("cifar10", ReadOptions(Path(options.data_dir)))
    train, test = stratified_subset(data.train, examples, 0), stratified_subset(data.test, options.test_images, 0)
    np.savez(path, x_train=train.images, y_train=train.labels, x_test=test.images, y_test=test.labels)


def _weights(backbone, work):
    """Random weights of a network of Keras in a file: --from-scratch would draw others for another seed."""
    path = work / "random.weights.h5"
    models = keras.applications
    names = {name.lower(): name for name in dir(models) if callable(getattr(models, name))}
    keras.utils.set_random_seed(0)
    getattr(models, names[backbone.removeprefix("keras/")])(weights=None).save_weights(path)
    return path


def _batch(home, options, data, rates, decays, seeds, features="on"):
    """Seconds of the whole command on an empty cache, and the jobs of its summary by name."""
    home.mkdir()
    settings = {
        "data": str(home.parent / f"{data}.npz"),
        "backbone": options.backbone,
        "preset": "linear-probe",
        "image-size": options.size,
        "epochs": options.epochs,
        "batch-size": 32,
        "validation": 0.0,
        "cache-features": features,
        "checkpoint": str(options.checkpoint.absolute()),
    }
    lines = ["[defaults]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    lines += ["[matrix]", f"learning-rate = {rates}", f"weight-decay = {decays}", f"seed = {seeds}"]
    (home / "jobs.toml").write_text("\n".join(lines) + "\n")
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "finetune",
            "batch",
            str(home / "jobs.toml"),
            "--workers",
            str(options.workers),
            "--json",
        ],
        env={**os.environ, "FINETUNE_HOME": str(home / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds = time.monotonic() - began
    jobs = {job["name"]: job for job in json.loads(done.stdout)["jobs"]}
    return {"wall": seconds, "jobs": jobs}


def _print(what, result):
    tests = [job["test_accuracy"] for job in result["jobs"].values()]
    print(
        f"{what:8} {result['wall']:6.1f} s, test accuracy {min(tests):.1%} to {max(tests):.1%}",
        flush=True,
    )


def _check(work, options):
    """Speed without the result does not count."""
    some = (_RATES[: max(options.check // 2, 1)], _DECAYS, _SEEDS[:1])
    found = {how: _batch(work / f"check-{how}", options, "few", *some, features=how)["jobs"] for how in ("on", "off")}
    for name, job in found["on"].items():
        other = found["off"][name]
        for figure in ("test_accuracy", "test_accuracy_batch_statistics"):
            if job[figure] != other[figure]:
                raise SystemExit(f"{name}: {figure} is {job[figure]} with cached features, {other[figure]} without")
    print(f"{len(found['on'])} jobs with and without cached features: the same accuracies", flush=True)


if __name__ == "__main__":
    main()
