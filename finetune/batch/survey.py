"""What the jobs will do, found out before any of them starts: every setting checked, images and steps counted."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

from checkpoints.errors import CheckpointError
from finetune.batch import timing
from finetune.batch.call import Call
from finetune.batch.jobs import Job
from finetune.batch.status import look
from finetune.batch.timing import TimeLeft
from finetune.config import RunConfig, settings_with
from finetune.data.load_data import load_data
from finetune.data.pipeline import steps_per_epoch
from finetune.errors import UserError
from finetune.runs import defaults
from finetune.runs.request import check_request


@dataclass(frozen=True)
class Survey:
    """What one job amounts to. Without `images` its data is not on this machine yet, and nothing is fetched for it.

    images: training images an epoch; image_size in px.
    """

    image_size: int | None
    batch_size: int | None
    epochs: int | None
    images: int | None = None
    steps: int | None = None

    @property
    def pixels(self) -> int | None:
        """Pixels trained on in all: images x epochs x image_size^2. Time on one backbone goes with it."""
        if self.images is None or self.epochs is None or self.image_size is None:
            return None
        return self.images * self.epochs * self.image_size**2

    def to_json(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return {
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "images": self.images,
            "steps": self.steps,
            "pixels": self.pixels,
        }


def survey(jobs: Sequence[Job]) -> list[Survey]:
    """One Survey a job, in order. Imports TensorFlow.

    Raises UserError, naming the job, where a job could not even begin: a name that
    is not in the catalogue, a rule that cannot be read, data that is not as asked for.
    """
    found = []
    for job in jobs:
        try:
            found.append(_survey(job.config))
        except UserError as error:
            error.args = (f"job {job.name}: {error}",)
            raise
    return found


def _survey(config: RunConfig) -> Survey:
    spec = check_request(config).spec
    try:
        images, side = _counted(_only_data(config))
    except (_WouldFetchError, CheckpointError):
        return Survey(config.image_size, config.batch_size, config.epochs)
    # Whether the backbone trains is known once the network is built; size, batch and epochs do not depend on it, nor
    # on whether the images are photos.
    complete = defaults.complete(config, spec, examples=images, source_size=side, photos=False, everything=True)
    epochs, batch_size = complete.epochs or 0, complete.batch_size or 1
    steps = steps_per_epoch(images, batch_size) * epochs
    return Survey(complete.image_size, batch_size, epochs, images, steps)


class _WouldFetchError(Exception):
    """The data is not here: a survey downloads nothing."""


@cache
def _counted(config: RunConfig) -> tuple[int, int]:
    """(training images, their height in px)."""
    shape = load_data(config, progress=_refuse).train.images.shape
    return int(shape[0]), int(shape[1])


def _refuse(done: int, total: int | None) -> NoReturn:
    raise _WouldFetchError


def _only_data(config: RunConfig) -> RunConfig:
    """`config` with the settings alone that choose images, so that jobs on the same data read it once."""
    return RunConfig(backbone="", **{name: getattr(config, name) for name in settings_with("chooses_images")})


def plan(call: Call, workers: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for every job of the call, and the estimate of what is still to run. Imports TensorFlow.

    Seconds are only given where jobs of this batch have been measured, and what they are taken from is said.
    Raises UserError for a job that could not begin.
    """
    surveys = survey(call.jobs)
    standings = [look(call.place, job) for job in call.jobs]
    rows = [
        {
            "index": job.index,
            "name": job.name,
            "state": standing.state,
            "run": str(call.place.run(job)),
            **counted.to_json(),
            "config": json.loads(json.dumps(job.config.to_json())),
        }
        for job, standing, counted in zip(call.jobs, standings, surveys, strict=True)
    ]
    to_run = [row for row in rows if row["state"] not in ("done", "running")]
    left = timing.left(standings, {row["name"]: row["pixels"] for row in rows}, workers)
    estimate = {
        "to_run": len(to_run),
        "steps": _total(to_run, "steps"),
        "images": _total([{"n": _product(row, "images", "epochs")} for row in to_run], "n"),
        "pixels": _total(to_run, "pixels"),
        "seconds": left.seconds if left else None,
        "workers": workers,
    }
    return rows, {**estimate, "words": _words(estimate, left)}


def _words(estimate: dict[str, Any], left: TimeLeft | None) -> str:
    if not estimate["to_run"]:
        return "nothing"
    if estimate["steps"] is None:
        return "the data of some jobs is not on this machine yet, so images and steps are not known"
    amount = f"{estimate['steps']:,} steps, {estimate['images']:,} images, {estimate['pixels'] / 1e9:.3g} gigapixels"
    if left is None:
        return f"{amount}; time is not estimated before a job of this batch has been measured"
    return (
        f"{amount}; about {left.seconds:.0f} s of work on {estimate['workers']} workers, by the pixels a second of "
        f"{left.measured} measured jobs of this batch"
    )


def _product(row: dict[str, Any], first: str, second: str) -> int | None:
    return None if row[first] is None or row[second] is None else row[first] * row[second]


def _total(rows: Sequence[dict[str, Any]], name: str) -> int | None:
    values = [row[name] for row in rows]
    return None if any(value is None for value in values) else sum(values)
