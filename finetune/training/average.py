"""The average of several finished runs of one network, with moving statistics measured for it.

Moving statistics belong to the weights that they were measured with. Averaged weights give every layer other inputs,
which the average of the runs' statistics does not describe: statistics are measured again, for every average.
"""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from checkpoints.atomic import move_all, working_folder
from finetune import process
from finetune.backbone import BackboneSpec, find_backbone, save_stock
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import bn_layers, parts
from finetune.config import RunConfig, settings_with
from finetune.data.dataset import Dataset
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation.predictions import AnyPredictions
from finetune.evaluation.selection import common_selection, selection_score
from finetune.runs.directory import AVERAGE, EXCLUDED, FORMAT_VERSION, RunDir, check_place
from finetune.runs.model import Opened, load_snapshot, open_run, open_trained, refuse_broken_plan
from finetune.runs.run_data import check_unchanged, describe_data, white
from finetune.training.display import Display
from finetune.training.finish import labels_json, recalibrate_layers, score_test, score_validation, write_card
from finetune.training.loop.mean_weights import MeanWeights
from finetune.training.loop.train import ImageFeed
from finetune.training.proof import digests, prove

METHODS = ("uniform", "greedy")
_SAME = (
    *("backbone", "output", "features", "hidden", "bn_epsilon", "image_size"),
    *("preprocess", "resize_mode", "crop_fraction", "eval_recipe", "background_class"),
)
"""Settings that make a network or its pixels another: weights of different ones have no mean."""
_COPIED = ("environment.json", "load.json", "freeze.json", EXCLUDED, "bn_source.npz")
_PREFIX = ".tmp.average-"

Weights = dict[str, np.ndarray]
"""Every variable by its path, moving statistics included."""


@dataclass(frozen=True, eq=False)
class _Member:
    """One of the runs.

    updating: the BatchNorm layers whose statistics the run changed. digests: the bits of every variable. score: on the
    validation images that all runs have in common; None where they have none. validation: the same as JSON.
    """

    run: RunDir
    config: RunConfig
    result: dict[str, Any]
    updating: set[str]
    digests: dict[str, str]
    score: float | None
    validation: dict[str, Any] | None

    def weights(self) -> Weights:
        """Read again from the file: the weights of all runs together may be more than the memory."""
        return _weights(open_trained(self.run.path).model)


def average(paths: Sequence[Path], out: Path, *, method: str = "uniform", display: Display | None = None) -> RunDir:
    """Write a run directory `out` with the average of the finished runs `paths`.

    method: `uniform` averages all of them. `greedy` is recipe 1 of Wortsman et al. (2022, arXiv 2203.05482): from the
        run with the best validation score on, each run is kept if the average with it has no lower score. Test images
        decide nothing.

    Weights are averaged in float64. The statistics of BatchNorm layers that a run updated are recalibrated on training
    images; those that were frozen in all runs stay, to the bit. `weights` of `result.json` has the test accuracy with
    averaged statistics too. Everything else in `out` is that of the first run.

    Raises WrongUse for an `out` that is there already, a run that is listed twice, and less than two runs;
    FinetuneError for a run that is not finished, another network, head or class, or other test images, and with
    `greedy` for other validation images.
    """
    display, started = display or Display(), time.monotonic()
    _check_call(paths, out, method)
    runs = [_finished(path) for path in paths]
    configs = [run.config() for run in runs]
    for run, config in zip(runs[1:], configs[1:], strict=True):
        _check_same_settings(runs[0], configs[0], run, config)
    by = common_selection(config.select_by for config in configs)
    spec = find_backbone(configs[0].backbone, output=configs[0].output)
    opened = open_run(paths[0])
    model, dataset = opened.trained.model, opened.dataset
    other = _other_validation(runs, configs, dataset)
    if method == "greedy" and (dataset.validation is None or other):
        raise FinetuneError(
            f"{other or f'{runs[0]} has no validation images'}: a greedy soup needs the same ones in all runs; give "
            "runs of the same --seed and --validation, or --method uniform"
        )
    feed = ImageFeed(model, dataset, opened.config)
    subject = KerasSubject(model)
    subject.forward = cache(subject.forward)  # type: ignore[method-assign]  # traced once for all averages
    scored = dataset.validation is not None and other is None
    members = [
        _member(run, config, feed, by if scored else None, display) for run, config in zip(runs, configs, strict=True)
    ]
    kept = _greedy(members, feed, subject, opened.config, by, display) if method == "greedy" else members
    measured = _measure(kept, feed, subject, opened.config, display)
    remarks = [f"{other}: the average is not scored on any, because it trained on them"] if other else []
    for remark in remarks:
        display.warn(remark)
    validation, thresholds, _ = score_validation(feed, display) if scored else (None, None, None)
    result = {
        "test": measured.test,
        "weights": _described(members, kept, method, by if scored else None, measured, remarks),
        "validation": validation,
        "thresholds": thresholds,
        "temperature_scaling": None,
        "multi_label": labels_json(measured.predictions, thresholds),
        **_facts(members[0], kept, model, dataset, recalibrated=bool(measured.recalibrated)),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mib": process.peak_memory_mib(),
    }
    _write(out, opened, spec, result, measured.predictions)
    refuse_broken_plan(RunDir(out))
    return RunDir(out)


def _check_call(paths: Sequence[Path], out: Path, method: str) -> None:
    if method not in METHODS:
        raise WrongUse(f"--method {method!r} is not valid: expected one of {', '.join(METHODS)}")
    if len(paths) < 2:
        raise WrongUse(f"an average is of two or more runs: found {len(paths)}; give the directories of finished runs")
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise WrongUse(f"{path} comes twice: leave one out")
        seen.add(path.resolve())
    if out.exists() or out.is_symlink():
        raise WrongUse(f"{out} is already there and is not overwritten: give another --out")
    check_place(out, Path(), option="--out")


def _finished(path: Path) -> RunDir:
    run = RunDir.open(path)
    if run.status != "done":
        raise FinetuneError(f"{run} is not finished: continue it with: {run.resume_command}")
    refuse_broken_plan(run)
    return run


def _check_same_settings(first: RunDir, one: RunConfig, run: RunDir, other: RunConfig) -> None:
    """FinetuneError that names the first difference between two runs' networks, heads, pixels or classes."""
    for name in _SAME:
        mine, others = getattr(one, name), getattr(other, name)
        if mine != others:
            raise FinetuneError(
                f"{run} has {name.replace('_', ' ')} {others}, but {first} has {mine}: only runs of the same network, "
                "head and pixels can be averaged; leave one out"
            )
    names, others = first.class_names(), run.class_names()
    if names != others:
        same = "the same classes in another order" if sorted(names) == sorted(others) else "other classes"
        where = next((at for at, pair in enumerate(zip(names, others, strict=False)) if pair[0] != pair[1]), None)
        seat = (
            f"class {where} is '{others[where]}', not '{names[where]}'"
            if where is not None
            else f"{len(others)}, not {len(names)}"
        )
        raise FinetuneError(f"{run} has {same} than {first} ({seat}): their outputs cannot be averaged; leave one out")


def _other_validation(runs: Sequence[RunDir], configs: Sequence[RunConfig], dataset: Dataset) -> str | None:
    """In words, which run held out other validation images than the first; None where all held out the same ones.

    FinetuneError where a run was tested on other images than the first: it may have trained on those of the first.
    """
    different = None
    for run, config in zip(runs[1:], configs[1:], strict=True):
        if _images_key(runs[0], configs[0]) == _images_key(run, config):
            check_unchanged(run, dataset, advice="leave the run out")
            continue
        found = load_data(config, white=white(run))
        check_unchanged(run, found, advice="leave the run out")
        if replace(found, train=dataset.train).fingerprint() != dataset.fingerprint():
            raise FinetuneError(
                f"{run} was tested on other images than {runs[0]}, and may have trained on its test images: give runs "
                "with the same test images, or leave it out"
            )
        if different is None and _validation_digest(found) != _validation_digest(dataset):
            different = f"{run} held out other validation images than {runs[0]}"
    return different


def _images_key(run: RunDir, config: RunConfig) -> list[Any]:
    """What decides which images a run reads. A list of excluded images is known by its digest."""
    names = [name for name in settings_with("chooses_images") if name != "exclude"]
    data = run.read("data.json") if (run.path / "data.json").is_file() else {}
    return [*(getattr(config, name) for name in names), config.seed, data.get("excluded"), white(run)]


def _validation_digest(dataset: Dataset) -> str | None:
    held_out = dataset.validation
    return (
        None if held_out is None else replace(dataset, train=dataset.test, test=held_out, validation=None).fingerprint()
    )


def _member(run: RunDir, config: RunConfig, feed: ImageFeed, by: str | None, display: Display) -> _Member:
    """A run, its weights read into the model of `feed` and scored by `by`."""
    weights = _weights(open_trained(run.path).model)
    _assign(feed.model, weights, where=str(run))
    statistics, source = KerasSubject(feed.model).snapshot(), load_snapshot(run) or {}
    changed = {
        name
        for name, pair in statistics.items()
        if name not in source or not all(map(np.array_equal, pair, source[name]))
    }
    validation = None
    if by is not None:
        display.say(f"{run}: evaluating on validation images")
        evaluator, images = feed.scoring("validation", on_batch=display.batch)
        validation = evaluator.evaluate(images).to_json()
    result = run.read("result.json", "test", "bn", "proof")
    score = _score(validation, by) if validation and by else None
    return _Member(run, config, result, changed, digests(feed.model), score, validation)


def _score(validation: Mapping[str, Any], by: str) -> float | None:
    return selection_score({f"validation_{name}": value for name, value in validation.items()}, by)


def _greedy(
    members: Sequence[_Member], feed: ImageFeed, subject: KerasSubject, config: RunConfig, by: str, display: Display
) -> list[_Member]:
    """The runs of the greedy soup, in the order they were added."""
    kept: list[_Member] = []
    mean, best = MeanWeights(), -np.inf
    for one in sorted(members, key=lambda member: -np.inf if member.score is None else member.score, reverse=True):
        candidate = MeanWeights(dict(mean.sums), mean.count)
        candidate.add(one.weights())
        score = one.score
        if kept:
            _assign(feed.model, candidate.mean())
            recalibrate_layers(subject, _updating([*kept, one]), feed.dataset, config)
            evaluator, images = feed.scoring("validation", on_batch=display.batch)
            score = _score(evaluator.evaluate(images).to_json(), by)
        score = -np.inf if score is None else score
        keeps = not kept or score >= best
        display.say(
            f"{one.run}: the average of {candidate.count} has validation {by} {abs(score):.4g}, "
            + ("kept" if keeps else f"left out (without it {abs(best):.4g})")
        )
        if keeps:
            kept, mean, best = [*kept, one], candidate, score
    return kept


@dataclass(frozen=True, eq=False)
class _Measured:
    """Test scores of the average. averaged: with averaged statistics, None where nothing was recalibrated."""

    test: dict[str, Any]
    predictions: AnyPredictions
    averaged: dict[str, Any] | None
    recalibrated: set[str]


def _measure(
    kept: Sequence[_Member], feed: ImageFeed, subject: KerasSubject, config: RunConfig, display: Display
) -> _Measured:
    """Make the model the average of the runs `kept`, recalibrate it, and score both."""
    _assign(feed.model, MeanWeights.of(one.weights() for one in kept).mean())
    names = _updating(kept) if len(kept) > 1 else set()
    averaged = None
    if names:
        display.say("evaluating on test images with averaged statistics")
        evaluator, images = feed.scoring("test", on_batch=display.batch)
        averaged = evaluator.evaluate(images).to_json()
        display.say("recalibrating the moving statistics on training images")
        recalibrate_layers(subject, names, feed.dataset, config)
    tested = score_test(feed, display)
    return _Measured(tested.scores, tested.passed.images, averaged, names)


def _updating(members: Sequence[_Member]) -> set[str]:
    return set().union(*(one.updating for one in members))


def _weights(model: keras.Model) -> Weights:
    return {variable.path: np.array(variable) for part in parts(model) for variable in part.weights}


def _assign(model: keras.Model, weights: Mapping[str, np.ndarray], *, where: str = "") -> None:
    """Give `model` these weights, rounded to its types. FinetuneError where they are of another network."""
    variables = {variable.path: variable for part in parts(model) for variable in part.weights}
    for path in [*variables, *weights]:
        mine = tuple(variables[path].shape) if path in variables else None
        others = weights[path].shape if path in weights else None
        if mine != others:
            raise FinetuneError(
                f"{where} has another network: its {path} is {_shape(others)}, expected {_shape(mine)}; leave it out"
            )
    for path, variable in variables.items():
        variable.assign(weights[path].astype(variable.dtype))


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _described(
    members: Sequence[_Member],
    kept: Sequence[_Member],
    method: str,
    by: str | None,
    measured: _Measured,
    remarks: list[str],
) -> dict[str, Any]:
    """`weights` of `result.json`. The best single run is the best by validation score where all runs have one."""
    rows = [
        {
            "run": os.path.abspath(one.run.path),
            "kept": one in kept,
            "validation": one.validation,
            "test": one.result["test"],
        }
        for one in members
    ]
    scores = [one.score for one in members if one.score is not None]
    by_validation = len(scores) == len(members)
    test = [float(row["test"]["is_training_false"]["accuracy"]) for row in rows]
    best = int(np.argmax(scores if by_validation else test))
    return {
        "kind": "average",
        "method": method,
        "statistics": "recalibrated" if measured.recalibrated else "unchanged",
        "averaged_statistics": {"is_training_false": measured.averaged} if measured.averaged else None,
        "runs": rows,
        "best_run": {"run": rows[best]["run"], "by": f"validation {by}" if by_validation else "test accuracy"},
        "remarks": remarks,
    }


def _facts(
    first: _Member, kept: Sequence[_Member], model: keras.Model, dataset: Dataset, *, recalibrated: bool
) -> dict[str, Any]:
    """What `result.json` says beside scores and weights. A variable that no run changed must be what it was before
    training, to the bit."""
    source, now = first.run.read("freeze.json", "digests")["digests"], digests(model)
    bn = kept[0].result["bn"]
    before = {path: source.get(path, "") for path in now}
    expected = {path: any(one.digests[path] != before[path] for one in kept) for path in now}
    return {
        "tta": None,
        "validation_accuracy": None,
        "class_weights": None,
        "bn": {**bn, "layers": len(bn_layers(model)), "recalibrated": recalibrated or bn["recalibrated"]},
        "proof": {**prove(before, now, expected).to_json(), "without_gradient": 0},
        "cached_features": None,
        "class_names": list(dataset.class_names),
        "data_fingerprint": dataset.fingerprint(),
        "train_images": len(dataset.train),
        "skipped_images": len(dataset.skipped),
        "epochs": 0,
        "steps": int(first.result.get("steps", 0)),
        "train_seconds": 0.0,
    }


def _write(out: Path, opened: Opened, spec: BackboneSpec, result: dict[str, Any], predictions: AnyPredictions) -> None:
    """Write the run directory: all of it appears at once."""
    first, config, dataset = opened.trained.run, opened.config, opened.dataset
    weights = result["weights"]
    made = {"method": weights["method"], "runs": [one["run"] for one in weights["runs"] if one["kept"]]}
    out.parent.mkdir(parents=True, exist_ok=True)
    with working_folder(out.parent, _PREFIX) as folder:
        run = RunDir(folder / out.name)
        run.path.mkdir()
        for name in _COPIED:
            if (first.path / name).is_file():
                shutil.copyfile(first.path / name, run.path / name)
        run.write("data.json", describe_data(dataset, config))
        run.write("config.json", {"format_version": FORMAT_VERSION, AVERAGE: made, **config.to_json()})
        save_stock(opened.trained.model, run.model_path)
        predictions.save(run.predictions_path)
        run.write_metrics([{"kind": "test", "statistics": name, **value} for name, value in result["test"].items()])
        write_card(run, config, spec, dataset, opened.trained.model, result, predictions)
        run.write("result.json", result)
        move_all(folder, out.parent)
