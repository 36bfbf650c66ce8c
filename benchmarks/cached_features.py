"""What cached features save: whole `finetune run` processes, start to end, interleaved, and their figures compared.

Each round has a cache of its own: a first job fills it, a second reads it, a third does without; all three have the
same settings, so they must end with the same accuracies. Then `--jobs` head-only jobs, which differ in learning rate
and weight decay, run as one `finetune batch` against a single such job as a batch.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from finetune.data.dataset import stratified_subset
from finetune.data.load_data import read_source
from finetune.data.sources.assembly import ReadOptions


def main():
    options = _options()
    with tempfile.TemporaryDirectory(prefix="cached-features-") as scratch:
        work = Path(scratch)
        _images(options, work / "images.npz")
        plan = ["--freeze", "*"] if options.until is None else ["--freeze-until", options.until, "--augment", "none"]
        settings = [
            *("--backbone", options.backbone, "--data", str(work / "images.npz"), "--image-size", str(options.size)),
            *("--epochs", str(options.epochs), "--batch-size", "32", "--seed", "0", *plan),
            *(("--checkpoint", str(options.checkpoint)) if options.checkpoint else ("--from-scratch",)),
        ]
        rounds = [_round(work / f"round{number}", settings) for number in range(options.rounds)]
        for result in rounds:
            _print(result)
        _check(rounds)
        ratio = {
            name: statistics.median(one[name]["wall"] / one["first"]["wall"] for one in rounds)
            for name in ("second", "without")
        }
        fed = statistics.median(one["without"]["train_seconds"] / one["second"]["train_seconds"] for one in rounds)
        print(f"second job / first job             {ratio['second']:.3f}")
        print(f"job without features / first job   {ratio['without']:.3f}")
        print(f"training alone, images / features  {fed:.1f}")
        if options.jobs:
            one, many = (_batch(work / f"batch{jobs}", settings, jobs, options.workers) for jobs in (1, options.jobs))
            print(f"{options.jobs} jobs / one job: {many:.1f} s / {one:.1f} s = {many / one:.2f}")


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="holds cifar-10-batches-py/")
    parser.add_argument("--backbone", default="keras/resnet50")
    parser.add_argument("--checkpoint", type=Path, help="its weights; without, random ones: as slow, and as exact")
    parser.add_argument("--until", help="freeze up to this stage; without, all but the head")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--test-images", type=int, default=2_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=16, help="of the batch; 0 leaves it out")
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def _images(options, path):
    data = read_source("cifar10", ReadOptions(Path(options.data_dir)))
    train = stratified_subset(data.train, options.examples, 0)
    some = np.random.default_rng(0).permutation(len(data.test))[: options.test_images]
    arrays = {"x_train": train.images, "y_train": train.labels}
    np.savez(path, **arrays, x_test=data.test.images[some], y_test=data.test.labels[some])


def _round(work, settings):
    return {
        "first": _run(work / "first", work, settings, "on"),
        "second": _run(work / "second", work, settings, "on"),
        "without": _run(work / "without", work, settings, "off"),
    }


def _run(run, home, settings, features):
    command = [*_FINETUNE, "run", *settings, "--cache-features", features, "--run-dir", str(run), "--quiet", "--json"]
    began = time.monotonic()
    done = subprocess.run(command, env={**os.environ, "FINETUNE_HOME": str(home)}, stdout=subprocess.PIPE, check=True)
    wall = time.monotonic() - began
    result = json.loads(done.stdout)
    shutil.rmtree(run)
    return {"wall": wall, **result}


def _batch(work, settings, jobs, workers):
    """Seconds of a whole batch of `jobs`, on an empty cache."""
    work.mkdir()
    named = [word for word in settings if word != "--from-scratch"]
    values = {name[2:]: value for name, value in zip(named[::2], named[1::2], strict=True)}
    lines = [f"{name} = {json.dumps(_value(name, value))}" for name, value in values.items()]
    lines += ["from-scratch = true"] if "--from-scratch" in settings else []
    rates = [round(0.0005 * 1.5**number, 6) for number in range(max(jobs // 2, 1))]
    matrix = [f"learning-rate = {rates}", f"weight-decay = {[0.01, 0.1][: min(jobs, 2)]}"]
    (work / "jobs.toml").write_text("\n".join(["[defaults]", *lines, "[matrix]", *matrix]) + "\n")
    began = time.monotonic()
    command = [*_FINETUNE, "batch", str(work / "jobs.toml"), "--workers", str(min(workers, jobs))]
    subprocess.run(
        command, env={**os.environ, "FINETUNE_HOME": str(work)}, cwd=work, stdout=subprocess.DEVNULL, check=True
    )
    return time.monotonic() - began


def _value(name, value):
    if name == "freeze":
        return [value]
    return int(value) if value.isdigit() else value


def _print(result):
    for name, one in result.items():
        test = one["test"]
        print(
            f"{name:8} {one['wall']:7.1f} s, training {one['train_seconds']:6.1f} s, is_training=False "
            f"{test['is_training_false']['accuracy']:.2%}, True {test['is_training_true']['accuracy']:.2%}, peak "
            f"{one['peak_memory_mib']:.0f} MiB",
            flush=True,
        )


def _check(rounds):
    """Speed without the result does not count."""
    counts = {
        tuple(one["test"][mode]["correct"] for mode in one["test"]) for result in rounds for one in result.values()
    }
    if len(counts) != 1:
        raise SystemExit(f"the jobs do not agree: correct answers {sorted(counts)}")


_FINETUNE = [sys.executable, "-m", "finetune"]

if __name__ == "__main__":
    main()
