"""One or more runs as one JSON object: what a terminal prints and a page draws."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.evaluation import metrics
from finetune.evaluation.predictions import Predictions
from finetune.reporting import ranking, scored, selection
from finetune.reporting.mistakes import Pictures, surest_mistakes
from finetune.reporting.record import RunRecord, read

SCHEMA_VERSION = 1
CONFUSED = 10
"""Pairs of classes named as most often confused."""

_SCORES = ("classes", "macro_f1", "confusion", "confused", "calibration", "not_finite", "mistakes")
"""What a report says of test images; null for a run that is not finished."""

Score = Callable[[str], Callable[[], None]]
"""Told why a run must be scored; gives what is called after every batch of it."""


@dataclass(frozen=True)
class Report:
    """`value` is plain JSON, described in docs/report.md; `pictures` has a data URI for each mistake of each run that
    has any, by the run's name."""

    value: dict[str, Any]
    pictures: dict[str, list[str]]


def build(
    paths: Sequence[Path], *, data_dir: Path | None = None, mistakes: int = 24, pictures: bool = False, score: Score
) -> Report:
    """Of runs and batches. `mistakes` is how many of the surest ones are named; `pictures` wants to see them.

    Only a run that kept no predictions needs its data and TensorFlow. Raises FinetuneError, WrongUse.
    """
    found = selection.runs(paths)
    records = [read(path, name=name) for path, name in zip(found, selection.names(found), strict=True)]
    said = {one.name: scored.read(one, data_dir=data_dir, score=score) for one in records if one.result is not None}
    order = ranking.rank(records, said)
    rows, shown, seen = [], {}, Pictures(data_dir)
    for record in order.records:
        predictions = said.get(record.name)
        row = {**_described(record), **order.standing(record), **dict.fromkeys(_SCORES)}
        if predictions is not None:
            positions = surest_mistakes(predictions, mistakes)
            row |= _scores(record, predictions, positions)
            if pictures and len(positions):
                of = seen.of(record, predictions, positions.tolist())
                if isinstance(of, str):
                    row["remarks"].append(f"the mistakes are without pictures: {of}")
                else:
                    shown[record.name] = of
        rows.append(row)
    return Report({"schema_version": SCHEMA_VERSION, **order.to_json(), "runs": rows}, shown)


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


def _scores(record: RunRecord, said: Predictions, positions: np.ndarray) -> dict[str, Any]:
    names = record.class_names
    table = metrics.confusion(said.labels, said.classes, len(names))
    each = metrics.per_class(said.labels, said.classes, len(names))
    return {
        "classes": [{"name": name, **asdict(score)} for name, score in zip(names, each, strict=True)],
        "macro_f1": metrics.macro_f1(each),
        "confusion": table.tolist(),
        "confused": [
            {"true": names[true], "predicted": names[taken], "images": count}
            for true, taken, count in metrics.confused(table, CONFUSED)
        ],
        "calibration": metrics.calibration(said.confidences, said.correct).to_json(),
        "not_finite": int(np.sum(said.classes < 0)),
        "mistakes": [_mistake(said, int(position), names) for position in positions],
    }


def _mistake(said: Predictions, position: int, names: list[str]) -> dict[str, Any]:
    return {
        "image": position,
        "true": names[said.labels[position]],
        "predicted": names[said.classes[position]],
        "probability": float(said.confidences[position]),
        "true_probability": float(np.exp(said.label_log_probability[position])),
    }
