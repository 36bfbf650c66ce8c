"""`--dry-run`: the jobs as they would run, and what they amount to."""

import json
from collections.abc import Sequence
from typing import Any

from finetune.batch import timing
from finetune.batch.call import Call
from finetune.batch.status import look
from finetune.batch.survey import survey


def plan(call: Call, workers: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for every job of the call, and the estimate of what is still to run. Imports TensorFlow.

    Seconds are only given where jobs of this batch have been measured, and what they are taken from is said.
    Raises WrongUse, FinetuneError or CheckpointError for a job that could not begin.
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


def _words(estimate: dict[str, Any], left: timing.Left | None) -> str:
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
