"""Open a run's model together with its data, check that they belong together, and score it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Statistics
from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.dataset import Dataset, Split
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import Evaluation, Evaluator, Pass
from finetune.evaluation.flip import Mirrored
from finetune.runs.model import TrainedModel, broken_plan, find_trained, open_trained
from finetune.runs.run_data import check_classes, check_unchanged


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
    dataset = load_data(config)
    _check_classes(trained, dataset)
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
    flip: bool = False,
    on_batch: Callable[[], None] | None = None,
) -> list[Pass]:
    """As `evaluate_run`, with the prediction for every image. With `flip` the result is [plain, flipped]; the second is
    with test-time flip (`finetune.evaluation.flip`)."""
    opened = open_run(target, data_dir=data_dir)
    images: Split | None = getattr(opened.dataset, split)
    if images is None:
        raise FinetuneError(f"{target} has no validation images: it ran with --validation 0; use --split test")
    subject = KerasSubject(opened.trained.model)
    ways = (subject, Mirrored(subject)) if flip else (subject,)
    return [
        Evaluator(way, on_batch=on_batch).examine(batches.evaluation(images, opened.config), statistics) for way in ways
    ]


def concern(target: Path) -> str | None:
    """The reason why a finished run's model is not the one that was configured; None where it is."""
    run = find_trained(target)[0]
    return broken_plan(run) if run.status == "done" else None


def _check_classes(trained: TrainedModel, dataset: Dataset) -> None:
    check_classes(trained.run, dataset)
    outputs, classes = trained.model.output_shape[-1], len(dataset.class_names)
    if outputs != classes:
        raise FinetuneError(
            f"{trained.path} has {outputs} outputs, but the data has {classes} classes: give the data of the run, "
            "or put the model beside its own config.json"
        )
