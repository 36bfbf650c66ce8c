"""One or more runs as one JSON object, from which the terminal's tables and the page are made.

The most confident mistakes on the test images can be added as small pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.dataset import Dataset, Split
from finetune.data.lazy import LazyImages
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError, UserError
from finetune.evaluation import metrics
from finetune.evaluation.predictions import AnyPredictions, LabelPredictions, Predictions
from finetune.reporting.heat_maps import HeatMaps, data_uri_of, read_heat_maps, save_heat_maps
from finetune.reporting.pictures import SIDE, data_uri
from finetune.reporting.ranking import rank_runs
from finetune.reporting.record import (
    RunRecord,
    distinct_names,
    read_predictions,
    read_record,
    read_searches,
    select_runs,
)
from finetune.runs.directory import made_from
from finetune.runs.run_data import as_seen, check_unchanged, white

SCHEMA_VERSION = 1
CONFUSED = 10
"""How many of the most often confused pairs of classes are listed."""
Explain = Callable[[Path, Split], tuple[str, np.ndarray]]
"""(run directory, images whose labels are the predicted classes) to (layer, heat maps float32 `[n, height, width]`)."""
_SCORES = ("classes", "macro_f1", "balanced_accuracy", "confusion", "confused", "calibration", "not_finite", "mistakes")
"""The keys about test images; null for a run that is not finished."""


@dataclass(frozen=True)
class Report:
    """value: plain JSON, described in docs/report.md. pictures: a data URI for each mistake of a run, by the run's
    name; only of runs that have any. heat_maps: (layer, a data URI for each of these pictures), in the same way."""

    value: dict[str, Any]
    pictures: dict[str, list[str]]
    heat_maps: dict[str, tuple[str, list[str]]] = field(default_factory=dict)


def build_report(
    paths: Sequence[Path],
    *,
    score: Callable[[Path], AnyPredictions],
    data_dir: Path | None = None,
    mistakes: int = 24,
    pictures: bool = False,
    explain: Explain | None = None,
) -> Report:
    """Report on runs and batches. `mistakes` is how many of the most confident ones are listed; `pictures`: read their
    images too; `explain`: also make heat maps of them, which a run keeps.

    `score` computes the predictions of a run directory without predictions.npz. Only it and `explain` need TensorFlow.
    They are kept in the run, unless `data_dir` says that the data lies elsewhere now. Raises FinetuneError, WrongUse.
    """
    chosen = select_runs(paths)
    records = [read_record(path, name=name) for path, name in zip(chosen, distinct_names(chosen), strict=True)]
    finished = [record for record in records if record.result is not None]
    predictions = {one.name: read_predictions(one, score=score, keep=data_dir is None) for one in finished}
    ordered, ranking = rank_runs(records, predictions)
    group_of = {name: group for group in ranking["groups"] for name in group["runs"]}
    rows, shown, heat, images = [], {}, {}, Pictures(data_dir)
    for record in ordered:
        group = group_of.get(record.name, {"rank": None, "verdict": ""})
        settings = {name: getattr(record.config, name) for name in ranking["differs"]}
        row = {**_described(record), **dict.fromkeys(_SCORES)}
        row |= {"rank": group["rank"], "verdict": group["verdict"], "settings": settings}
        if record.name in predictions:
            found = predictions[record.name]
            positions = most_confident_mistakes(found, mistakes, record.thresholds)
            row |= _scores(record, found, positions)
            if pictures and len(positions):
                uris = images.data_uris(record, found.labels, positions.tolist())
                if isinstance(uris, str):
                    row["remarks"].append(f"the mistakes are without pictures: {uris}")
                else:
                    shown[record.name] = uris
                    maps = (
                        images.heat_maps(record, positions, _mistaken(found, positions), explain) if explain else None
                    )
                    if isinstance(maps, str):
                        row["remarks"].append(f"the mistakes are without heat maps: {maps}")
                    elif maps:
                        heat[record.name] = maps
        rows.append(row)
    searches = read_searches(paths)
    value = {"schema_version": SCHEMA_VERSION, **ranking, "searches": searches, "runs": rows}
    return Report(value, shown, heat)


def _described(record: RunRecord) -> dict[str, Any]:
    result, remarks = record.result, []
    if result is None:
        remarks.append(f"the run is not finished ({record.run.status}); continue it with: {record.run.resume_command}")
    elif not result["proof"].get("holds", True):
        remarks.append("the freeze plan was not kept: see result.json")
    if result is not None and (runs := made_from(record.run.path / "config.json")):
        remarks.append(f"the average of {len(runs)} runs, with the settings of the first: {', '.join(runs)}")
    known = result or {}
    return {
        "name": record.name,
        "path": str(record.run.path.absolute()),
        "status": record.run.status,
        "remarks": remarks,
        "config": record.config.to_json(),
        **{name: getattr(record, name) for name in ("data", "environment", "weights", "plan", "epochs", "diagnosis")},
        "validation_accuracy": record.validation,
        **{f"validation_{name}": record.kept.get(f"validation_{name}") for name in ("balanced_accuracy", "macro_f1")},
        **({"validation_map": record.kept["validation_map"]} if "validation_map" in record.kept else {}),
        **{name: known.get(name) for name in ("test", "bn", "proof", "class_weights", "thresholds")},
        **{name: known.get(name) for name in ("temperature_scaling", "multi_label")},
        "cost": {
            **{name: known.get(name) for name in ("train_seconds", "seconds", "steps", "peak_memory_mib")},
            "images_per_second": record.images_per_second,
        },
    }


def _label_scores(record: RunRecord, predictions: LabelPredictions, positions: np.ndarray) -> dict[str, Any]:
    """`_scores` of images that may have several labels, each decided by its threshold, or at probability 0.5."""
    names, chances = record.class_names, predictions.probabilities
    yes = metrics.decided(chances, record.thresholds)
    each = metrics.class_scores(metrics.label_counts(yes, predictions.labels))
    ranked = metrics.average_precisions(predictions.logits, predictions.labels)
    sure = np.maximum(chances, 1 - chances)
    return {
        "classes": [
            {"name": name, **asdict(score), "threshold": threshold, "average_precision": ap}
            for name, score, threshold, ap in zip(names, each, record.thresholds, ranked, strict=True)
        ],
        "macro_f1": metrics.macro_f1(each),
        "balanced_accuracy": None,
        "confusion": [],
        "confused": [],
        "calibration": metrics.calibration(sure.ravel(), ((chances >= 0.5) == predictions.labels).ravel()).to_json(),
        "not_finite": int(np.isinf(predictions.logits).all(axis=1).sum()),
        "mistakes": [_label_mistake(predictions, int(position), yes, names) for position in positions],
    }


def _mistaken(predictions: AnyPredictions, positions: np.ndarray) -> np.ndarray:
    """The predicted classes of these images, int64; of several labels an image, the one furthest off."""
    if isinstance(predictions, LabelPredictions):
        return np.asarray(np.abs(predictions.probabilities - predictions.labels)[positions].argmax(axis=1))
    return np.asarray(predictions.classes[positions])


def _label_mistake(predictions: LabelPredictions, position: int, yes: np.ndarray, names: list[str]) -> dict[str, Any]:
    """`label` is the one furthest off, of which `probability` is."""
    true, chances = predictions.labels[position], predictions.probabilities[position]
    (label,) = _mistaken(predictions, np.array([position])).tolist()

    def named(chosen: np.ndarray) -> str:
        return ", ".join(names[one] for one in np.flatnonzero(chosen)) or "no label"

    return {
        "image": position,
        "true": named(true),
        "predicted": named(yes[position]),
        "label": names[label],
        "probability": float(chances[label]),
        "true_probability": None,
    }


def _scores(record: RunRecord, predictions: AnyPredictions, positions: np.ndarray) -> dict[str, Any]:
    if isinstance(predictions, LabelPredictions):
        return _label_scores(record, predictions, positions)
    names = record.class_names
    table = metrics.confusion(predictions.labels, predictions.classes, len(names))
    each = metrics.per_class(predictions.labels, predictions.classes, len(names))
    return {
        "classes": [
            {"name": name, **asdict(score), "threshold": threshold}
            for name, score, threshold in zip(names, each, record.thresholds, strict=True)
        ],
        "macro_f1": metrics.macro_f1(each),
        "balanced_accuracy": metrics.balanced_accuracy(each),
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


def most_confident_mistakes(predictions: AnyPredictions, most: int, limits: Sequence[float | None] = ()) -> np.ndarray:
    """Positions, int64, of wrongly classified images, by the probability of the predicted class, the highest first; of
    several labels, decided by the thresholds `limits`, by that of the label furthest off."""
    if isinstance(predictions, LabelPredictions):
        off = np.abs(predictions.probabilities - predictions.labels)
        wrong = metrics.decided(predictions.probabilities, limits) != (predictions.labels == 1)
        order = np.argsort(-np.where(wrong, off, 0.0).max(axis=1), kind="stable")
        return np.asarray(order[wrong.any(axis=1)[order]][:most])
    wrong = np.flatnonzero(~predictions.correct & (predictions.classes >= 0))
    order = np.argsort(-predictions.confidences[wrong].astype(np.float64), kind="stable")
    return wrong[order][:most]


class Pictures:
    """The test images of several runs. Runs on the same data, one after another, share one reading of it."""

    def __init__(self, data_dir: Path | None) -> None:
        self._data_dir = data_dir
        self._last: tuple[str, Dataset] | None = None

    def data_uris(self, record: RunRecord, labels: np.ndarray, positions: Sequence[int]) -> list[str] | str:
        """A data URI for each of the test images at `positions`; or the reason why there are none.

        `labels` are those that the run was tested with.
        """
        try:
            dataset = self._dataset(record)
            if not np.array_equal(dataset.test.labels, labels):
                return "the test images are no longer those of the run"
            images = as_seen(dataset.test, record.config, longest=SIDE).images
            photos = isinstance(images, LazyImages)
            return [data_uri(images[position : position + 1][0], photo=photos) for position in positions]
        except (UserError, OSError) as error:
            return str(error)

    def heat_maps(
        self, record: RunRecord, positions: np.ndarray, classes: np.ndarray, explain: Explain
    ) -> tuple[str, list[str]] | str:
        """(layer, a data URI for each of the test images at `positions`, under the heat map of its class in `classes`);
        or the reason why there are none. The run keeps the maps, unless its directory is read-only."""
        try:
            test = self._dataset(record).test
            found = read_heat_maps(record.run.path, positions, classes)
            if found is None:
                chosen = Split(test.take(positions).images, classes)
                found = HeatMaps(positions, classes, *explain(record.run.path, chosen))
                if self._data_dir is None:
                    save_heat_maps(record.run.path, found)
            seen = as_seen(test, record.config, longest=SIDE).images
            pixels = (seen[position : position + 1][0] for position in positions.tolist())
            return found.layer, [data_uri_of(*pair) for pair in zip(pixels, found.maps, strict=True)]
        except (UserError, OSError) as error:
            return str(error)

    def _dataset(self, record: RunRecord) -> Dataset:
        config = record.config
        names = ["data", "data_dir", "examples", "validation", "seed", "test", "skip_bad_images"]
        names += ["npz_keys", "tfrecord_keys", "csv_columns", "multi_label", "label_separator", "exclude"]
        key = repr([white(record.run), *(getattr(config, name) for name in names)])
        if self._last is None or self._last[0] != key:
            self._last = None
            moved = replace(config, data_dir=str(self._data_dir)) if self._data_dir else config
            self._last = key, load_data(moved, white=white(record.run), progress=_refuse)
        if self._data_dir is None:
            check_unchanged(record.run, self._last[1], advice="give its place with --data-dir")
        return self._last[1]


def _refuse(done: int, total: int | None) -> None:
    raise FinetuneError("its data is not on this machine any more, and a report downloads nothing")
