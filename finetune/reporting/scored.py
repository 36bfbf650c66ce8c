"""What a run's model said of every test image: from the run's own file, or scored once."""

import errno
import importlib
from collections.abc import Callable
from pathlib import Path

from finetune.errors import FinetuneError
from finetune.evaluation.predictions import Predictions, load_predictions
from finetune.reporting.record import RunRecord


def read(record: RunRecord, *, data_dir: Path | None, score: Callable[[str], Callable[[], None]]) -> Predictions:
    """The predictions of a finished run, with `is_training=False`.

    A run without predictions.npz is scored, which imports TensorFlow, and keeps them unless it may only be read.
    `score` is told why, and gives what is called after every batch. Raises FinetuneError where the file is damaged or
    of another model, or the run cannot be scored.
    """
    path = record.run.predictions_path
    try:
        found = load_predictions(path, classes=len(record.class_names))
    except FileNotFoundError:
        found = _scored(record, data_dir, score(f"{record.run} has no predictions.npz: scoring its test images"))
        if data_dir is None:
            _keep(found, path)
    _check(record, found, path)
    return found


def _scored(record: RunRecord, data_dir: Path | None, on_batch: Callable[[], None]) -> Predictions:
    # TensorFlow is imported where it is needed, and only there.
    scoring = importlib.import_module("finetune.runs.evaluate")
    passed = scoring.examine_run(record.run.path, data_dir=data_dir, on_batch=on_batch)[0]
    images: Predictions = passed.images
    return images


def _keep(found: Predictions, path: Path) -> None:
    try:
        found.save(path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def _check(record: RunRecord, found: Predictions, path: Path) -> None:
    assert record.result is not None
    test = record.result["test"]["is_training_false"]
    # Another machine rounds otherwise: an image at the edge may fall to the other side.
    if len(found) != record.examples or abs(found.correct.mean() - test["accuracy"]) > 0.005:
        raise FinetuneError(
            f"{path} has {int(found.correct.sum())} of {len(found)} test images right, but result.json says "
            f"{test['accuracy']:.2%} of {record.examples}: the model, the data or one of the two files has changed; "
            "delete predictions.npz to score anew, or repeat the run"
        )
