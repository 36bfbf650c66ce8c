"""A run's model, opened with this package's BatchNorm, and scored on the run's data, which must belong to it; the
statistics it started from; the proof of its freeze plan."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from finetune.backbone import is_preset, module_handle, open_model, unbiased
from finetune.batchnorm.scores import Scores
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Runnable, Snapshot, Statistics
from finetune.batchnorm.surgery import adopt
from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.batches import EvalSet
from finetune.data.dataset import Dataset, Split
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import Evaluation, Evaluator, Pass
from finetune.files import read_arrays, write_arrays
from finetune.runs.directory import RunDir
from finetune.runs.run_data import check_classes, check_unchanged, white
from finetune.runs.views import with_views
from finetune.text import shape_of

_SNAPSHOT = "bn_source.npz"


@dataclass(frozen=True)
class TrainedModel:
    """A model of a run, adopted, with the run's config. `path` is the model's file."""

    run: RunDir
    config: RunConfig
    model: keras.Model
    path: Path

    @property
    def subject(self) -> KerasSubject:
        """The model as it is evaluated: of logits of one softmax, or of a sigmoid for each label."""
        return KerasSubject(self.model, run_scores(self.model, multi_label=self.run.multi_label))


def run_scores(model: keras.Model, *, multi_label: bool) -> Scores | None:
    """What the outputs of a run's model are: logits, of sigmoids where an image may have several labels."""
    return Scores(int(model.output_shape[-1]), per_label=True) if multi_label else None


def find_trained(target: Path) -> tuple[RunDir, RunConfig, Path]:
    """(run, its config, file) of a run directory's `model.keras`, or of another `.keras` file in a run directory.

    Raises FinetuneError where there is none.
    """
    path = target / "model.keras" if target.is_dir() else target
    if path.suffix != ".keras" or not (path.parent / "config.json").is_file():
        raise FinetuneError(
            f"{target} is no run: expected a directory with config.json in it, as 'finetune run' writes, or a .keras "
            f"file in one{'' if target.exists() else '; there is nothing of that name'}"
        )
    if is_preset(path.parent):
        raise FinetuneError(
            f"{target} is a KerasHub preset, a backbone without a head: expected a run; train one with finetune run "
            f"--backbone {target}"
        )
    run = RunDir.open(path.parent)
    config = run.config()
    if not path.is_file():
        advice = f"the run is {run.status}; continue it with: {run.resume_command}"
        if run.status == "done" or path != run.model_path:
            advice = f"give another .keras file in {run}, or repeat the run with 'finetune run --config'"
        raise FinetuneError(f"{path} is missing: {advice}")
    return run, config, path


def open_trained(target: Path) -> TrainedModel:
    """The model that `find_trained` finds.

    Raises FinetuneError where there is none, it cannot be loaded, or does not take what the run is configured for.
    """
    run, config, path = find_trained(target)
    where = run.path / "config.json"
    model = adopt(_load(path, module_handle(config.backbone)), unbiased=unbiased(config.backbone))
    if config.image_size and model.input_shape != (None, *shape_of(config.image_size)):
        raise FinetuneError(
            f"{path} takes {list(model.input_shape)}, expected images of {shape_of(config.image_size)} as {where} "
            "says: it is another run's model; put it beside its own config.json"
        )
    return TrainedModel(run, config, model, path)


def _load(path: Path, module: str | None) -> keras.Model:
    """A `.keras` file that classifies images, in safe mode; `module` is the Hub handle that may be in it."""
    model = open_model(path, module=module)
    try:
        fits = [len(model.input_shape), len(model.output_shape)] == [4, 2] and isinstance(model.output_shape, tuple)
    except AttributeError:  # a model of its own class, not a graph
        fits = False
    if not fits:
        raise FinetuneError(f"{path} is no image classifier: expected one input of images and one output of logits")
    return model


@dataclass(frozen=True, eq=False)
class Opened:
    """A run's model, its config with the current path of the data, and the data."""

    trained: TrainedModel
    config: RunConfig
    dataset: Dataset


def open_run(target: Path, *, data_dir: Path | None = None) -> Opened:
    """Open a run directory, or a `.keras` file in one, with its data. `data_dir` is where the data lies now.

    Raises FinetuneError where there is no such model, the data's classes are not those it was trained for, or, unless
    `data_dir` names other data, there are more or fewer images than the run had.
    """
    trained = open_trained(target)
    config = replace(trained.config, data_dir=str(data_dir)) if data_dir else trained.config
    dataset = load_data(config, white=white(trained.run))
    check_classes(trained.run, dataset)
    outputs, classes = trained.model.output_shape[-1], len(dataset.class_names)
    if outputs != classes:
        raise FinetuneError(
            f"{trained.path} has {outputs} outputs, but the data has {classes} classes: give the data of the run, "
            "or put the model beside its own config.json"
        )
    if data_dir is None:
        advice = "put it back, or give the place of the data you mean with --data-dir"
        check_unchanged(trained.run, dataset, advice=advice)
    return Opened(trained, config, dataset)


def evaluate_run(
    target: Path,
    *,
    data_dir: Path | None = None,
    split: str = "test",
    statistics: Statistics = "moving",
    on_batch: Callable[[], None] | None = None,
) -> Evaluation:
    """Score a run's model on one of its splits, without augmentation. FinetuneError where there is no such split."""
    return examine_run(target, data_dir=data_dir, split=split, statistics=statistics, on_batch=on_batch)[0].evaluation


def examine_run(
    target: Path,
    *,
    data_dir: Path | None = None,
    split: str = "test",
    statistics: Statistics = "moving",
    tta: str | None = None,
    on_batch: Callable[[], None] | None = None,
) -> list[Pass]:
    """As `evaluate_run`, with the prediction for every image. With `tta`, a kind of `config.TTA`, the result is [plain,
    averaged] (`finetune.runs.views`)."""
    opened = open_run(target, data_dir=data_dir)
    images: Split | None = getattr(opened.dataset, split)
    if images is None:
        raise FinetuneError(f"{target} has no validation images: it ran with --validation 0; use --split test")
    subject = opened.trained.subject
    scored = EvalSet(images, **batches.form(opened.config))
    ways: list[tuple[Runnable, EvalSet]] = [(subject, scored), *([with_views(subject, scored, tta)] if tta else [])]
    return [Evaluator(way, on_batch=on_batch).examine(given.batches(), statistics) for way, given in ways]


def concern(target: Path) -> str | None:
    """The reason why a finished run's model is not the one that was configured; None where it is."""
    run = find_trained(target)[0]
    return broken_plan(run) if run.status == "done" else None


def save_snapshot(run: RunDir, snapshot: Snapshot) -> None:
    """Keep the moving statistics a run starts from. A diagnosis compares with them to see whether they changed."""
    arrays: dict[str, Any] = {
        f"{name}:{kind}": pair[i] for name, pair in snapshot.items() for i, kind in enumerate(("mean", "var"))
    }
    write_arrays(run.path / _SNAPSHOT, arrays)


def load_snapshot(run: RunDir) -> Snapshot | None:
    """What `save_snapshot` kept, or None where the run has none. FinetuneError where the file is damaged."""
    path = run.path / _SNAPSHOT
    advice = "delete it, and the diagnosis does without"
    try:
        arrays = read_arrays(path, advice=advice)
        names = {key.rpartition(":")[0] for key in arrays}
        return {name: (arrays[f"{name}:mean"], arrays[f"{name}:var"]) for name in names}
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise FinetuneError(f"{path} is damaged (it has no {error}): {advice}") from None


def broken_plan(run: RunDir) -> str | None:
    """In words, which frozen variables changed; None where the proof of a finished run holds."""
    proved = run.read("result.json", "proof")["proof"]
    try:
        if proved["holds"]:
            return None
        parts = (proved, *proved.get("phases", []))
        moved = list(dict.fromkeys(str(path) for part in parts for path in part["moved_though_frozen"]))
        count = int(proved["moving_variables"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise FinetuneError(
            f"{run.path / 'result.json'} has no proof of its freeze plan: it is damaged; restore it from a copy"
        ) from None
    what = (
        f"{len(moved)} frozen variable{'s' if len(moved) > 1 else ''} moved ({', '.join(moved[:3])}"
        f"{', ...' if len(moved) > 3 else ''})"
        if moved
        else f"none of the {count} variables that should move did"
    )
    return (
        f"{run}: the freeze plan was not kept: {what}; do not use its model: see 'proof' in "
        f"{run.path / 'result.json'}, and report this as a defect"
    )


def refuse_broken_plan(run: RunDir) -> None:
    """Raise FinetuneError, with the changed variables, where the proof in a run's `result.json` does not hold."""
    broken = broken_plan(run)
    if broken is not None:
        raise FinetuneError(broken)


def finished_class_names(run: RunDir) -> tuple[str, ...]:
    """The class names of a finished run, in the order of its outputs.

    Raises FinetuneError where its freeze plan was not kept, or `result.json` has no class names.
    """
    refuse_broken_plan(run)
    return tuple(run.class_names())
