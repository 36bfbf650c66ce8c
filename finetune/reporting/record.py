"""The runs of a report: run directories and the finished runs of batches. Their files are read once and checked."""

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import RunConfig
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation.predictions import AnyPredictions, LabelPredictions, load_predictions
from finetune.evaluation.selection import kept_epoch
from finetune.files import read_json
from finetune.runs.directory import RunDir


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run. `name` is different for each run of a report. Files that the run has not written are empty; `result` and
    `diagnosis` are then None.

    epochs: the rows of metrics.jsonl. plan: the freeze plan, a row a stage. weights: the counts in load.json.
    diagnosis: bn.json.
    """

    name: str
    run: RunDir
    config: RunConfig
    data: dict[str, Any]
    environment: dict[str, Any]
    weights: dict[str, Any]
    plan: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    result: dict[str, Any] | None
    diagnosis: dict[str, Any] | None

    @property
    def class_names(self) -> list[str]:
        """Of label 0 and up."""
        names = (self.result or self.data).get("class_names", [])
        return [str(name) for name in names]

    @property
    def test(self) -> float | None:
        """Test accuracy with `is_training=False`."""
        return None if self.result is None else float(self.result["test"]["is_training_false"]["accuracy"])

    @property
    def test_scores(self) -> Mapping[str, Any]:
        """All scores of the test images with `is_training=False`; empty where the run has not been tested."""
        return {} if self.result is None else self.result["test"]["is_training_false"]

    @property
    def thresholds(self) -> list[float | None]:
        """Of each class, chosen on validation images; all None where there were none."""
        rows = (self.result or {}).get("thresholds") or [{"threshold": None}] * len(self.class_names)
        return [row["threshold"] for row in rows]

    @property
    def examples(self) -> int:
        """Test images, 0 where the run has not been tested."""
        return 0 if self.result is None else int(self.result["test"]["is_training_false"]["examples"])

    @property
    def kept(self) -> Mapping[str, Any]:
        """The row of the epoch whose weights were kept: with `patience` the best one, else the last one. Empty without
        validation images."""
        patience, by = self.config.patience is not None, self.config.select_by
        return kept_epoch(self.epochs, patience=patience, select_by=by or "accuracy") or {}

    @property
    def validation(self) -> float | None:
        """Validation accuracy of the weights that were kept."""
        return self.kept.get("validation_accuracy")

    @property
    def images_per_second(self) -> float | None:
        """Over all epochs, including the time for making batches and for tracing the first step."""
        seconds = sum(row.get("seconds", 0.0) for row in self.epochs)
        images = sum(row.get("seconds", 0.0) * row.get("images_per_second", 0.0) for row in self.epochs)
        return images / seconds if seconds else None


def read_record(path: Path, *, name: str = "") -> RunRecord:
    """The run in the directory `path`. FinetuneError where there is none, or one of its files is damaged."""
    run = RunDir.open(path)
    result = _checked(run.read("result.json"), _RESULT, run.path / "result.json") if run.status == "done" else None
    if result is not None and len(result.get("thresholds") or result["class_names"]) != len(result["class_names"]):
        raise _damaged(run.path / "result.json", "thresholds", "are not one for each class")
    if result is not None and (result["test"]["is_training_false"]["examples"] < 1 or not result["class_names"]):
        raise _damaged(run.path / "result.json", "test", "counts no images")
    return RunRecord(
        name=name or path.absolute().name,
        run=run,
        config=run.config(),
        data=_optional(run, "data.json", _DATA),
        environment=_optional(run, "environment.json"),
        weights=_weights(_optional(run, "load.json")),
        plan=_optional(run, "freeze.json", _PLAN).get("stages", []),
        epochs=[_checked(row, _EPOCH, run.path / "metrics.jsonl") for row in run.epochs()],
        result=result,
        diagnosis=_optional(run, "bn.json", _DIAGNOSIS) or None,
    )


def read_predictions(record: RunRecord, *, score: Callable[[Path], AnyPredictions], keep: bool) -> AnyPredictions:
    """The predictions of a finished run with `is_training=False`.

    A run without predictions.npz is scored by `score`, which gets its directory. With `keep` they are then written
    there, unless the directory is read-only. Raises FinetuneError where the file is damaged or of another model.
    """
    path = record.run.predictions_path
    try:
        found = load_predictions(path, classes=len(record.class_names))
    except FileNotFoundError:
        found = score(record.run.path)
        try:
            if keep:
                found.save(path)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
    # Another machine rounds differently, so a few images at the edge may get another class.
    if len(found) != record.examples or abs(found.outcomes.mean() - (record.test or 0.0)) > 0.005:
        several = isinstance(found, LabelPredictions)
        right = f"{found.outcomes.mean():.2%}" if several else str(int(found.correct.sum()))
        raise FinetuneError(
            f"{path} has {right} of {len(found)} test images right, but result.json says "
            f"{record.test:.2%} of {record.examples}: the model, the data or one of the two files has changed; "
            "delete predictions.npz to score again, or repeat the run"
        )
    return found


_MODE: dict[str, Any] = {"accuracy": float, "loss": float | None, "standard_error": float, "examples": int}
_THRESHOLD = {"class": str, "threshold": float | None, "f1": float | None, "images": int}
_BIN = {"low": float, "high": float, "images": int, "confidence": float | None, "accuracy": float | None}
_CALIBRATION = {"expected_error": float, "largest_error": float, "bins": [_BIN]}
_RESULT = {
    "test": {"is_training_false": _MODE, "is_training_true": _MODE},
    "bn": {"layers": int, "decay": float, "updates": int, "residual": float, "recalibrated": bool, "zero_debias": bool},
    "proof": {"holds": bool, "frozen_variables": int, "moving_variables": int, "unmoved": list},
    "class_names": list,
    "thresholds?": [_THRESHOLD],
    "temperature_scaling?": {
        "temperature": float, "images": int, "remark": str, "test": {"before": _CALIBRATION, "after": _CALIBRATION}
    },
}  # fmt: skip
_PLAN = {"stages": [{"stage": str, "layers": int, "training": int, "bn": dict}]}
_DATA = {"source": str, "images": dict, "class_names": list, "skipped": list, "remarks": list}
_EPOCH = {"epoch": int, "step": int}
_LAYER = {
    "name": str, "mean_shift": float | None, "log_variance_ratio": float | None, "share": float | None,
    "values": float | None,
}  # fmt: skip
_DIAGNOSIS = {"verdict": {"cause": str, "sentence": str}, "layers": [_LAYER]}

_TRIAL = {"name": str, "state": str, "score": float | None, "epoch": int, "settings": dict}
_SEARCH = {
    "metric": str, "best": object, "best?": {**_TRIAL, "command": str}, "importance": object, "importance?": dict,
    "importance_trials": int, "table": [_TRIAL],
}  # fmt: skip


def _checked(value: Any, shape: Any, where: Path, at: str = "") -> Any:
    """`value`, or FinetuneError where it lacks a key of `shape` or has another type there. [shape]: a list of such;
    a key with a question mark may be missing, or null."""
    if isinstance(shape, list) and isinstance(value, list):
        for place, one in enumerate(value):
            _checked(one, shape[0], where, f"{at}[{place}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            raise _damaged(where, at, "is no object")
        for name, inner in shape.items():
            key = name.removesuffix("?")
            path = f"{at}.{key}" if at else key
            if name != key and value.get(key) is None:
                continue
            if key not in value:
                raise _damaged(where, path, "is missing")
            _checked(value[key], inner, where, path)
    elif isinstance(shape, list) or not isinstance(value, shape | int if shape in (float, float | None) else shape):
        raise _damaged(where, at, f"is {str(value)[:40]!r}")
    return value


def _damaged(where: Path, at: str, what: str) -> FinetuneError:
    return FinetuneError(
        f"{where} is not what finetune writes ('{at}' {what}): it is damaged; restore it from a copy, or repeat the run"
    )


def _optional(run: RunDir, name: str, shape: Any = None) -> dict[str, Any]:
    """A file that may be missing; {} then."""
    if not (run.path / name).is_file():
        return {}
    return dict(_checked(run.read(name), shape or {}, run.path / name))


def _weights(load: dict[str, Any]) -> dict[str, Any]:
    if not load:
        return {}
    return {
        **{name: load.get(name) for name in ("path", "kind", "sha256")},
        "assigned": len(load.get("assigned", [])),
        "ignored": {reason: len(names) for reason, names in load.get("ignored", {}).items()},
    }


def select_runs(paths: Sequence[Path]) -> list[Path]:
    """Run directories in the order given. A batch, a directory with summary.json, gives its runs in their ranking.

    Raises WrongUse for a run that is listed twice, FinetuneError where a path is neither a run nor a batch.
    """
    found: list[Path] = []
    for path in paths:
        is_run = (path / "config.json").is_file() or not (path / "summary.json").is_file()
        found += [_run(path)] if is_run else _batch(path)
    seen: dict[Path, Path] = {}
    for one in found:
        twin = seen.setdefault(one.resolve(), one)
        if twin is not one:
            raise WrongUse(f"{one} comes twice: leave one out")
    return found


def read_searches(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The outcome of each search among `paths`, as summary.json has it. FinetuneError where one is damaged."""
    found = []
    for path in paths:
        where = path / "summary.json"
        if not (path / "config.json").is_file() and (search := read_json(where).get("search")) is not None:
            checked = _checked(search, _SEARCH, where, "search")
            names = checked["table"][0]["settings"] if checked["table"] else {}
            shares = dict.fromkeys(checked.get("importance") or {}, float)
            if not names or any(one["settings"].keys() != names.keys() for one in checked["table"]):
                raise _damaged(where, "search.table", "has rows without settings")
            _checked(checked.get("importance") or {}, shares, where, "search.importance")
            found.append({"path": str(path.absolute()), **checked})
    return found


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its last part, or as many of its last parts as make all names different."""
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        chosen = ["/".join(one[-length:]) for one in parts]
        if len(set(chosen)) == len(chosen):
            return chosen
    return [str(path) for path in paths]


def _run(path: Path) -> Path:
    if path.suffix == ".keras" and (path.parent / "config.json").is_file():
        raise WrongUse(f"{path} is a model: a report is of a whole run, give {path.parent}")
    if not (path / "config.json").is_file():
        raise FinetuneError(
            f"{path} is no run and no batch: expected a directory with config.json in it, as 'finetune run' writes, or "
            "one with summary.json, as 'finetune batch' writes"
            + ("" if path.exists() else "; there is nothing of that name")
        )
    return path


def _batch(path: Path) -> list[Path]:
    where = path / "summary.json"
    jobs = read_json(where).get("jobs")
    if not isinstance(jobs, list) or not all(
        isinstance(job, dict) and isinstance(job.get("name"), str) for job in jobs
    ):
        raise FinetuneError(f"{where} is no summary of a batch: give run directories, or repeat 'finetune batch'")
    # By the job's name, not by the path in the summary: the batch may have been moved.
    found = [path / job["name"] for job in jobs if job.get("state") == "done"]
    missing = [one for one in found if not (one / "config.json").is_file() or one.resolve().parent != path.resolve()]
    if missing:
        raise FinetuneError(f"{missing[0]} is missing, which {where} names: restore it, or repeat 'finetune batch'")
    if not found:
        raise FinetuneError(f"{path} has no finished job: go on with 'finetune batch'")
    return found
