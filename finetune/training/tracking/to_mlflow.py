"""MLflow: its own client, and by default a local SQLite store beside the runs."""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from checkpoints.atomic import naming
from finetune.batchnorm.subject import Snapshot
from finetune.errors import FinetuneError
from finetune.training.tracking.trackers import (
    FILES,
    Tracker,
    of_epoch,
    of_result,
    of_settings,
    read_notes,
    write_notes,
)

# Read when MLflow is imported. A run reports only to the chosen store; a server that is gone must not hold
# it up for minutes. What is already set wins.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

EXPERIMENT = "finetune"
_MOST = 100
"""Params MLflow takes at once; of metrics it takes more."""


class MLflow(Tracker):
    """Settings as params, epochs and test results as metrics by step, the run's small files as artifacts.

    What the MLflow run already holds is not logged again. Steps are not logged: a row in a database for every step
    would be slower than the step. Nothing is held back until `flush`.
    """

    def __init__(self, client: MlflowClient, run_id: str, directory: Path) -> None:
        self._client, self._id, self._directory = client, run_id, directory
        self._logged: dict[str, set[int]] = {}

    def epoch(self, history: Sequence[Mapping[str, Any]], statistics: Callable[[], Snapshot]) -> None:
        """As `Tracker.epoch`."""
        self._log((int(row["step"]), of_epoch(row)) for row in history)

    def end(self, result: Mapping[str, Any]) -> None:
        """As `Tracker.end`."""
        self._log([(int(result["steps"]), of_result(result))])

    def close(self, status: str) -> None:
        """As `Tracker.close`; a finished run's small files are kept with it."""
        if status == "finished":
            for name in FILES:
                if (self._directory / name).is_file():
                    self._client.log_artifact(self._id, str(self._directory / name))
        self._client.set_terminated(
            self._id, {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[status]
        )

    def _log(self, rows: "Sequence[Any] | Iterator[Any]") -> None:
        """Log (step, values by name) for each of `rows` that MLflow does not hold yet."""
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


def open_tracker(place: str | None, run: Path, settings: Mapping[str, Any], source: Snapshot | None) -> MLflow:
    """The MLflow run that tracking.json names, if the store still has it, else a new one.

    The store is DIR/mlflow.db with artifacts beside it, or a URI of MLflow's; without a place MLFLOW_TRACKING_URI, or
    the directory that holds the runs. The experiment is MLFLOW_EXPERIMENT_NAME, or "finetune".
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    given = place or os.environ.get("MLFLOW_TRACKING_URI")
    uri = given if not place or "://" in place else None
    directory = None if uri else Path(place or run.absolute().parent)
    with ExitStack() as alone:
        if directory is not None:
            # One process at a time: two that make the tables of a new SQLite store at once fail both.
            directory.mkdir(parents=True, exist_ok=True)
            lock = alone.enter_context(open(directory / ".mlflow.lock", "a+"))
            with naming(directory, instead_of=directory):
                fcntl.flock(lock, fcntl.LOCK_EX)
        client = MlflowClient(tracking_uri=uri or f"sqlite:///{directory}/mlflow.db")
        noted = read_notes(run)
        run_id = noted.get("mlflow")
        if not (isinstance(run_id, str) and _there(client, run_id)):
            run_id = _create(client, directory, run, settings)
            write_notes(run, {**noted, "mlflow": run_id})
    return MLflow(client, run_id, run)


def _create(client: MlflowClient, artifacts: Path | None, run: Path, settings: Mapping[str, Any]) -> str:
    """The id of a new MLflow run with the settings as params; the experiment is created where there is none."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    location = None if artifacts is None else (artifacts / "mlartifacts" / name).as_uri()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            experiment = client.get_experiment(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another run of the same batch was faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise FinetuneError(f"the MLflow experiment '{name}' was deleted: restore it, or set MLFLOW_EXPERIMENT_NAME")
    source = {"mlflow.source.name": "finetune run", "mlflow.source.type": "LOCAL"}
    tags = {**source, "finetune.run": str(run.absolute())}
    run_id: str = client.create_run(experiment.experiment_id, run_name=run.name, tags=tags).info.run_id
    params = [Param(key, str(value)[:6000]) for key, value in of_settings(settings).items()]
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
    """The values in lists of at most `_MOST`."""
    for start in range(0, len(values), _MOST):
        yield values[start : start + _MOST]
