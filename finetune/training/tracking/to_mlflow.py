"""MLflow: its own client, and by default a local SQLite store beside the runs."""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.batchnorm.subject import Snapshot
from finetune.errors import FinetuneError
from finetune.training.tracking import figures
from finetune.training.tracking.trackers import read_notes, write_notes

# Read when MLflow is imported. A run reports only to the chosen store; a server that is gone must not hold
# it up for minutes. What is already set wins.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

EXPERIMENT = "finetune"
_FILES = ("config.json", "data.json", "environment.json", "result.json", "metrics.csv", "MODEL_CARD.md")
_MOST = 100
"""Params MLflow takes at once; of metrics it takes more."""


class MLflow:
    """Settings as params, epochs and test results as metrics by step, the run's small files as artifacts.

    What the MLflow run already holds is not logged again.
    """

    def __init__(self, client: MlflowClient, run_id: str, directory: Path) -> None:
        self._client, self._id, self._directory = client, run_id, directory
        self._logged: dict[str, set[int]] = {}

    def step(self, step: int, loss: float) -> None:
        """Nothing: a row in a database for every step would be slower than the step."""

    def epoch(self, history: Sequence[Mapping[str, Any]], statistics: Callable[[], Snapshot]) -> None:
        """As `Tracker.epoch`."""
        self._log((int(row["step"]), figures.of_epoch(row)) for row in history)

    def flush(self) -> None:
        """Nothing is held back."""

    def end(self, result: Mapping[str, Any]) -> None:
        """As `Tracker.end`."""
        self._log([(int(result["steps"]), figures.of_result(result))])

    def close(self, status: str) -> None:
        """As `Tracker.close`; a finished run's small files are kept with it."""
        if status == "finished":
            for name in _FILES:
                if (self._directory / name).is_file():
                    self._client.log_artifact(self._id, str(self._directory / name))
        self._client.set_terminated(
            self._id, {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[status]
        )

    def _log(self, rows: "Sequence[Any] | Iterator[Any]") -> None:
        now = int(time.time() * 1000)
        new = []
        for step, values in rows:
            for name, value in values.items():
                if name not in self._logged:
                    self._logged[name] = {one.step for one in self._client.get_metric_history(self._id, name)}
                if step not in self._logged[name]:
                    self._logged[name].add(step)
                    new.append(Metric(name, value, now, step))
        for some in _chunks(new):
            self._client.log_batch(self._id, metrics=some)


def open_tracker(place: str | None, run: Path, *, settings: Mapping[str, Any], source: Snapshot | None) -> MLflow:
    """The MLflow run that tracking.json names, if the store still has it, else a new one.

    The store is DIR/mlflow.db with artifacts beside it, or a URI of MLflow's; without a place MLFLOW_TRACKING_URI, or
    the directory that holds the runs. The experiment is MLFLOW_EXPERIMENT_NAME, or "finetune".
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = (
        place if place is not None and "://" in place else os.environ.get("MLFLOW_TRACKING_URI") if not place else None
    )
    directory = None if uri else Path(place) if place else run.absolute().parent
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory):
        client = MlflowClient(tracking_uri=uri or f"sqlite:///{directory}/mlflow.db")
        noted = read_notes(run)
        run_id = noted.get("mlflow")
        if not (isinstance(run_id, str) and _there(client, run_id)):
            run_id = _create(client, directory, run, settings)
            write_notes(run, {**noted, "mlflow": run_id})
    return MLflow(client, run_id, run)


@contextmanager
def _alone(directory: Path | None) -> Iterator[None]:
    """One process at a time: two that make the tables of a new SQLite store at once fail both."""
    if directory is None:
        yield
        return
    with open(directory / ".mlflow.lock", "a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _create(client: MlflowClient, artifacts: Path | None, run: Path, settings: Mapping[str, Any]) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    location = None if artifacts is None else (artifacts / "mlartifacts" / name).as_uri()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            experiment_id = client.create_experiment(name, artifact_location=location)
        except MlflowException:  # another run of the same batch was faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment is not None:
        if experiment.lifecycle_stage != "active":
            raise FinetuneError(
                f"the MLflow experiment '{name}' was deleted: restore it, or set MLFLOW_EXPERIMENT_NAME"
            )
        experiment_id = experiment.experiment_id
    tags = {
        "mlflow.source.name": "finetune run",
        "mlflow.source.type": "LOCAL",
        "finetune.run": str(run.absolute()),
    }
    run_id: str = client.create_run(experiment_id, run_name=run.name, tags=tags).info.run_id
    params = [Param(key, str(value)[:6000]) for key, value in figures.settings(settings).items()]
    for some in _chunks(params):
        client.log_batch(run_id, params=some)
    return run_id


def _there(client: MlflowClient, run_id: str) -> bool:
    """Whether the store has the run; it is then marked as running again."""
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    if found.info.lifecycle_stage != "active":
        return False
    client.update_run(run_id, status="RUNNING")
    return True


def _chunks(values: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), _MOST):
        yield values[start : start + _MOST]
