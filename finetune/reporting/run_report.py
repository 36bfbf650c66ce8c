"""One or more runs as one JSON object, from which the terminal's tables and the page are made."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.evaluation import metrics
from finetune.evaluation.predictions import Predictions
from finetune.reporting.mistakes import Pictures, most_confident_mistakes
from finetune.reporting.ranking import rank_runs
from finetune.reporting.record import RunRecord, read_predictions, read_record
from finetune.reporting.selection import distinct_names, select_runs

SCHEMA_VERSION = 1
CONFUSED = 10
"""How many of the most often confused pairs of classes are listed."""

_SCORES = ("classes", "macro_f1", "confusion", "confused", "calibration", "not_finite", "mistakes")
"""The keys about test images; null for a run that is not finished."""


@dataclass(frozen=True)
class Report:
    """value: plain JSON, described in docs/report.md. pictures: a data URI for each mistake of a run, by the run's
    name; only of runs that have any."""

    value: dict[str, Any]
    pictures: dict[str, list[str]]


def build_report(
    paths: Sequence[Path],
    *,
    score: Callable[[Path], Predictions],
    data_dir: Path | None = None,
    mistakes: int = 24,
    pictures: bool = False,
) -> Report:
    """Report on runs and batches. `mistakes` is how many of the most confident ones are listed; `pictures`: read their
    images too.

    `score` computes the predictions of a run directory without predictions.npz. Only that needs TensorFlow. They are
    kept in the run, unless `data_dir` says that the data lies elsewhere now. Raises FinetuneError, WrongUse.
    """
    chosen = select_runs(paths)
    records = [read_record(path, name=name) for path, name in zip(chosen, distinct_names(chosen), strict=True)]
    finished = [record for record in records if record.result is not None]
    predictions = {one.name: read_predictions(one, score=score, keep=data_dir is None) for one in finished}
    ranking = rank_runs(records, predictions)
    rows, shown, images = [], {}, Pictures(data_dir)
    for record in ranking.records:
        row = {**_described(record), **ranking.row(record), **dict.fromkeys(_SCORES)}
        if record.name in predictions:
            found = predictions[record.name]
            positions = most_confident_mistakes(found, mistakes)
            row |= _scores(record, found, positions)
            if pictures and len(positions):
                uris = images.data_uris(record, found.labels, positions.tolist())
                if isinstance(uris, str):
                    row["remarks"].append(f"the mistakes are without pictures: {uris}")
                else:
                    shown[record.name] = uris
        rows.append(row)
    return Report({"schema_version": SCHEMA_VERSION, **ranking.to_json(), "runs": rows}, shown)


def _described(record: RunRecord) -> dict[str, Any]:
    result, remarks = record.result, []
    if result is None:
        remarks.append(f"the run is not finished ({record.run.status}); continue it with: {record.run.resume_command}")
    elif not result["proof"].get("holds", True):
        remarks.append("the freeze plan was not kept: see result.json")
    known = result or {}
    return {
        "name": record.name,
        "path": str(record.run.path.absolute()),
        "status": record.run.status,
        "remarks": remarks,
        "config": record.config.to_json(),
        "data": record.data,
        "environment": record.environment,
        "weights": record.weights,
        "plan": record.stages,
        "epochs": record.epochs,
        "validation_accuracy": record.validation,
        "test": known.get("test"),
        "bn": known.get("bn"),
        "proof": known.get("proof"),
        "diagnosis": record.diagnosis,
        "cost": {
            "train_seconds": known.get("train_seconds"),
            "seconds": known.get("seconds"),
            "images_per_second": record.images_per_second,
            "steps": known.get("steps"),
            "peak_memory_mib": known.get("peak_memory_mib"),
        },
    }


def _scores(record: RunRecord, predictions: Predictions, positions: np.ndarray) -> dict[str, Any]:
    names = record.class_names
    table = metrics.confusion(predictions.labels, predictions.classes, len(names))
    each = metrics.per_class(predictions.labels, predictions.classes, len(names))
    return {
        "classes": [{"name": name, **asdict(score)} for name, score in zip(names, each, strict=True)],
        "macro_f1": metrics.macro_f1(each),
        "confusion": table.tolist(),
        "confused": [
            {"true": names[true], "predicted": names[predicted], "images": count}
            for true, predicted, count in metrics.confused(table, CONFUSED)
        ],
        "calibration": metrics.calibration(predictions.confidences, predictions.correct).to_json(),
        "not_finite": int(np.sum(predictions.classes < 0)),
        "mistakes": [_mistake(predictions, int(position), names) for position in positions],
    }


def _mistake(predictions: Predictions, position: int, names: list[str]) -> dict[str, Any]:
    return {
        "image": position,
        "true": names[predictions.labels[position]],
        "predicted": names[predictions.classes[position]],
        "probability": float(predictions.confidences[position]),
        "true_probability": float(np.exp(predictions.label_log_probability[position])),
    }
