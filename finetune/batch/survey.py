"""Check every setting of the jobs and count their images and steps, before any of them starts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NoReturn

from checkpoints.errors import CheckpointError
from finetune.batch.call import Call
from finetune.batch.jobs import Job
from finetune.batch.status import TimeLeft, job_status, time_left
from finetune.config import RunConfig, settings_with
from finetune.data.load_data import load_data
from finetune.data.pipeline import steps_per_epoch
from finetune.errors import UserError
from finetune.runs.request import check_request, complete
from finetune.text import ImageSize, shape_of


@dataclass(frozen=True)
class Survey:
    """The size of one job. `images` is None if its data is not on this machine yet: nothing is fetched for a survey.

    images: training images an epoch. image_size: in px.
    """

    image_size: ImageSize | None
    batch_size: int | None
    epochs: int | None
    images: int | None = None
    steps: int | None = None

    @property
    def trained_images(self) -> int | None:
        """Images trained on in all epochs together."""
        return None if self.images is None or self.epochs is None else self.images * self.epochs

    @property
    def pixels(self) -> int | None:
        """Pixels trained on in all: images x epochs x height x width. Time on one backbone is proportional to it."""
        images = self.trained_images
        shape = shape_of(self.image_size or 0)
        return None if images is None or self.image_size is None else images * shape.height * shape.width


def survey(jobs: Sequence[Job]) -> list[Survey]:
    """One Survey a job, in order. Imports TensorFlow.

    Raises UserError, with the job's name, if a job could not begin: its backbone is not in the catalogue, a rule cannot
    be parsed, or the data is not what the job asks for.
    """
    found = []
    for job in jobs:
        try:
            found.append(_survey(job.config))
        except UserError as error:
            error.args = (f"job {job.name}: {error}" if job.index else f"[search.space]: {error}",)
            raise
    return found


def _survey(config: RunConfig) -> Survey:
    spec = check_request(config).spec
    try:
        images, side = _counted(_only_data(config))
    except (_WouldFetchError, CheckpointError):
        return Survey(config.image_size, config.batch_size, config.epochs)
    # Whether the backbone trains is known only when the network is built. Size, batch and epochs do not depend on it,
    # nor on whether the images are photos.
    completed = complete(config, spec, examples=images, source_size=side, photos=False, everything=True)
    epochs, batch_size = completed.epochs or 0, completed.batch_size or 1
    steps = steps_per_epoch(images, batch_size) * epochs
    return Survey(completed.image_size, batch_size, epochs, images, steps)


class _WouldFetchError(Exception):
    """The data is not on this machine, and a survey downloads nothing."""


@cache
def _counted(config: RunConfig) -> tuple[int, int]:
    """(training images, their shorter side in px)."""
    shape = load_data(config, progress=_refuse).train.images.shape
    return int(shape[0]), int(min(shape[1:3]))


def _refuse(done: int, total: int | None) -> NoReturn:
    raise _WouldFetchError


def _only_data(config: RunConfig) -> RunConfig:
    """`config` with only those settings that choose images, so that jobs on the same data read it once."""
    return RunConfig(backbone="", **{name: getattr(config, name) for name in settings_with("chooses_images")})


def plan(call: Call, workers: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for every job of the call, and the estimate of what is still to run. Imports TensorFlow.

    Seconds are given only if jobs of this batch have been measured; the estimate says how many.
    Raises UserError for a job that could not begin.
    """
    surveys = survey(call.jobs)
    if call.search is not None:
        survey(call.search.samples())  # checks, such as that every backbone exists
    statuses = [job_status(call.folder, job) for job in call.jobs]
    rows = [
        {
            "index": job.index,
            "name": job.name,
            "state": status.state,
            "run": str(call.folder.run(job)),
            **asdict(counted),
            "pixels": counted.pixels,
            "config": json.loads(json.dumps(job.config.to_json())),
        }
        for job, status, counted in zip(call.jobs, statuses, surveys, strict=True)
    ]
    to_run = [
        one for one, status in zip(surveys, statuses, strict=True) if not status.settled and status.state != "running"
    ]
    remaining = time_left(statuses, {row["name"]: row["pixels"] for row in rows}, workers)
    estimate = {
        "to_run": len(to_run),
        "steps": _total([one.steps for one in to_run]),
        "images": _total([one.trained_images for one in to_run]),
        "pixels": _total([one.pixels for one in to_run]),
        "seconds": remaining.seconds if remaining else None,
        "workers": workers,
        "to_propose": call.count - len(call.jobs),
    }
    return rows, {**estimate, "words": _words(estimate, remaining)}


def _words(estimate: dict[str, Any], remaining: TimeLeft | None) -> str:
    if estimate["to_propose"]:
        return f"{_amount(estimate, remaining)}; and {estimate['to_propose']} trials that the search has yet to propose"
    return _amount(estimate, remaining)


def _amount(estimate: dict[str, Any], remaining: TimeLeft | None) -> str:
    if not estimate["to_run"]:
        return "nothing"
    if estimate["steps"] is None:
        return "the data of some jobs is not on this machine yet, so images and steps are not known"
    amount = f"{estimate['steps']:,} steps, {estimate['images']:,} images, {estimate['pixels'] / 1e9:.3g} gigapixels"
    if remaining is None:
        return f"{amount}; time is not estimated before a job of this batch has been measured"
    return (
        f"{amount}; about {remaining.seconds:.0f} s of work on {estimate['workers']} workers, from the pixels a second "
        f"of {remaining.measured} measured jobs of this batch"
    )


def _total(values: Sequence[int | None]) -> int | None:
    """Their sum; None if one of them is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
