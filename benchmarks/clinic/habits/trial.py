"""One model: made, opened as its owner would, diagnosed with four test sets, judged by the whole pool, and mended."""

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from benchmarks.clinic.habits.habit import Bench, Brought, Habit
from benchmarks.clinic.habits.images import drawn
from finetune.cli.diagnosis_commands import diagnose_bn
from finetune.data.dataset import Split
from finetune.diagnosis.doctor import diagnose
from finetune.diagnosis.targets.opening import open_target
from finetune.diagnosis.targets.options import TargetOptions
from finetune.diagnosis.targets.target import Target
from finetune.files import finite

SIZES = (50, 100, 200, 1_000)
"""Test images of a cell."""
IMAGES = 1_000
"""Training images of a diagnosis: half of the default, which would be half of all there are."""


def run(habit: Habit, bench: Bench) -> Iterator[list[dict[str, Any]]]:
    """The cells of each model that the training leaves: four diagnoses."""
    started, target, opened = time.monotonic(), None, ()
    for brought in habit.bring(bench):
        print(f"{brought.name}, {habit.dialect}, {bench.network}", flush=True)
        ready = time.monotonic()
        words = [*brought.words, *_data(bench, brought)]
        if target is None or opened != brought.words:
            target, opened = open_target(options(words)), brought.words
        whole = diagnose(_with_data(target, brought, bench, None), images=IMAGES, extent="quick").evidence
        found = {}
        for size in SIZES:
            indices = bench.thousand if size == 1000 else drawn(bench.images.pool, size, bench.seed + size)
            found[size] = diagnose(_with_data(target, brought, bench, indices), images=IMAGES)
        kept = {
            "model": model(brought.name, habit.dialect, bench.network),
            "right": brought.right,
            "truth": {split: _shares(getattr(whole, split)) for split in ("test", "train")},
            "remedy": mend(found[SIZES[-1]].verdict.remedy),
            "own": brought.own if brought.comparable else None,
            "as_trained": brought.own,
        }
        seconds = {"training": round(ready - started, 1), "diagnoses": round(time.monotonic() - ready, 1)}
        yield [
            {**kept, "seconds": seconds, "test_images": size, "verdict": one.verdict.cause,
             "evidence": _rounded(finite(asdict(one.evidence)))}
            for size, one in found.items()
        ]  # fmt: skip
        started = time.monotonic()


def model(name: str, dialect: str, network: str) -> str:
    """Names a model in the evidence."""
    return f"{name} | {dialect} | {network}"


def options(words: list[str]) -> TargetOptions:
    """The options of `finetune diagnose-bn`, read from its words by the command itself."""
    context = diagnose_bn.make_context("diagnose-bn", list(words))
    given = {name: value for name, value in context.params.items() if name in TargetOptions.__dataclass_fields__}
    return TargetOptions(**given)


def _data(bench: Bench, brought: Brought) -> list[str]:
    """The images as the owner has them: training images and 1,000 test images."""
    train, pool = brought.train or bench.images.train, brought.pool or bench.images.pool
    chosen = np.sort(bench.thousand) if brought.pool is not None else bench.thousand
    tested = pool.take(chosen)
    path = bench.folder / "images.npz"
    np.savez(path, x_train=train.x, y_train=train.y, x_test=tested.x, y_test=tested.y)
    return ["--data", str(path)]


def _with_data(target: Target, brought: Brought, bench: Bench, indices: np.ndarray | None) -> Target:
    """The target with what is brought, of whose pool the test images are those of these positions, or all."""
    train, pool = brought.train or bench.images.train, brought.pool or bench.images.pool
    tested = pool if indices is None else pool.take(np.sort(indices) if brought.pool is not None else indices)
    dataset = replace(target.data.known(), train=Split(train.x, train.y), test=Split(tested.x, tested.y))
    return replace(target, data=replace(target.data, dataset=dataset))


def _shares(scores: Any) -> dict[str, Any]:
    """Accuracies and the shares of images that recalibrating wins and loses."""
    images = scores.is_training_false.examples
    changed = scores.by_recalibrated
    return {
        "images": images,
        "false": scores.is_training_false.accuracy, "true": scores.is_training_true.accuracy,
        "recalibrated": scores.recalibrated.accuracy,
        "gained": changed.gained / images, "lost": changed.lost / images,
    }  # fmt: skip


def mend(remedy: str | None) -> dict[str, Any] | None:
    """Run a printed remedy as it stands, and say what it gave; None where it is no command of finetune. Of a training,
    which takes minutes, the plan is made (`--dry-run`)."""
    from click.testing import CliRunner

    from finetune.cli import main

    line = shlex.split(remedy or "", comments=True)
    if line[:1] != ["finetune"]:
        return None
    result = CliRunner().invoke(main, [*line[1:], "--dry-run" if line[1] == "run" else "--json"])
    if line[1] == "run":
        return {"command": "run", "exit_code": result.exit_code, "output": result.output[-300:]}
    start = result.output.find("{")
    answer = json.loads(result.output[start:]) if start >= 0 else {}
    figures: dict[str, Any] = {"command": line[1], "exit_code": result.exit_code}
    if line[1] == "recalibrate-bn" and "after" in answer:
        figures |= {"before": answer["before"]["accuracy"], "after": answer["after"]["accuracy"]}
    elif "accuracy" in answer:
        figures |= {"after": answer["accuracy"]["test"]["is_training_false"], "cause": answer["verdict"]["cause"]}
    if "after" not in figures:
        figures["output"] = result.output[-300:]
    return figures


def _rounded(value: Any) -> Any:
    """Five significant digits: no rule is that fine."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
