"""How far a job is and how long the rest takes. Both are read from the files of its run; nothing is stored twice."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from finetune.batch.folder import BatchFolder
from finetune.batch.jobs import Job
from finetune.errors import FinetuneError
from finetune.evaluation.selection import kept_epoch, score_name, selection_score
from finetune.files import read_json

STATES = ("done", "pruned", "failed", "running", "interrupted", "pending")
"""A search stops jobs that are worse than most: they are `pruned`."""


@dataclass(frozen=True)
class JobStatus:
    """One job. `state` is one of STATES, accuracies are fractions in [0, 1], and a value is None until it is known.

    validation: accuracy of the weights that were kept; kept: the row of their epoch, with `patience` the best one, else
    the last one.
    scores: validation score of each finished epoch by its number, of the name `select_by`; larger is better.
    test, test_batch: test accuracy with `is_training=False` (moving statistics) and True (batch statistics).
    test_scores: all scores with `is_training=False`. select_by: the validation score that a begun run selects by.
    reduced_from: the batch size before it was halved because memory ran out.
    """

    job: Job
    state: str
    select_by: str | None = None
    epoch: int = 0
    epochs: int | None = None
    step: int = 0
    batch_size: int | None = None
    reduced_from: int | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None
    epoch_seconds: float | None = None
    validation: float | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[int, float] = field(default_factory=dict)
    test: float | None = None
    test_batch: float | None = None
    test_scores: Mapping[str, Any] = field(default_factory=dict)
    examples: int | None = None
    train_images: int | None = None
    train_seconds: float | None = None
    seconds: float = 0.0
    attempts: int = 0
    error: str | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.state in ("done", "pruned")

    @property
    def score(self) -> float | None:
        """The validation score `select_by`, larger is better: of a finished job that of the weights that were kept, of
        another that of its best epoch so far."""
        if self.state == "done":
            return self.selected(self.select_by or self.job.config.select_by or "accuracy")
        return max(self.scores.values(), default=None)

    def selected(self, by: str) -> float | None:
        """The validation score of that name, of the weights that were kept; larger is better."""
        return selection_score(self.kept, by)

    def test_score(self, by: str) -> float | None:
        """The test score of that name, with `is_training=False`."""
        return self.test_scores.get(score_name(by))

    @property
    def steps(self) -> int | None:
        """Steps of the whole job; None before the end of the first epoch, which shows how many an epoch has."""
        return round(self.step / self.epoch * self.epochs) if self.epoch and self.epochs else None

    @property
    def note(self) -> str:
        """What a reader of the job's accuracy must know, or an empty text."""
        if self.state == "pruned":
            return f"after epoch {self.epoch} of {self.epochs}: below the median of the finished trials"
        if self.reduced_from is None:
            return ""
        rate = describe_halved_rate(self.job.config.learning_rate)
        return f"batch {self.reduced_from} -> {self.batch_size} (out of memory; learning rate {rate})"


def describe_halved_rate(asked: float | str | None) -> str:
    """What becomes of the learning rate that a job asked for when its batch size is halved."""
    if asked is None:
        return "scaled with it"
    return "searched again" if asked == "auto" else f"kept at {asked}"


def job_status(folder: BatchFolder, job: Job, *, running: bool = False) -> JobStatus:
    """The job's status; `running` if the caller holds its process. A damaged file makes the job failed."""
    try:
        return _read_status(folder, job, running=running)
    except FinetuneError as error:
        return JobStatus(job, "failed", error=str(error))


def _read_status(folder: BatchFolder, job: Job, *, running: bool) -> JobStatus:
    run, record = folder.run(job), folder.record(job)
    attempts = record.attempts
    begun = (run.path / "config.json").is_file()
    settings = read_json(run.path / "config.json") if begun else job.config.to_json()
    names = ("epochs", "batch_size", "learning_rate") if begun else ("epochs", "batch_size")
    known: dict[str, Any] = {name: settings.get(name) for name in names}
    known |= {
        "select_by": settings.get("select_by"),
        "attempts": len(attempts),
        "seconds": sum(attempt.seconds for attempt in attempts),
    }
    if record.batch_size is not None:
        known["batch_size"] = record.batch_size
        known["reduced_from"] = next((attempt.batch_size for attempt in attempts if attempt.batch_size), None)
    rows: list[dict[str, Any]] = []
    with suppress(OSError, FinetuneError):  # a file that cannot be read shows no finished epochs
        rows = run.epochs()
    if rows:
        last = rows[-1]
        known |= {
            "epoch": last.get("epoch", 0),
            "step": last.get("step", 0),
            "images_per_second": last.get("images_per_second"),
            "epoch_seconds": last.get("seconds"),
        }
        by = settings.get("select_by") or "accuracy"
        kept = kept_epoch(rows, patience=job.config.patience is not None, select_by=by) or {}
        known |= {"kept": kept, "validation": kept.get("validation_accuracy")}
        scored = {row.get("epoch", 0): selection_score(row, by) for row in rows}
        known["scores"] = {epoch: score for epoch, score in scored.items() if score is not None}
    outcome = attempts[-1].outcome if attempts else None
    if running or (outcome == "running" and run.status != "done" and folder.holder(job)):
        return JobStatus(job, "running", **known)
    if run.status == "done":
        return _finished(job, run.read("result.json", "test", "proof"), known)
    if outcome == "pruned" and begun:
        return JobStatus(job, "pruned", **known)
    failed = outcome in ("failed", "out-of-memory", "killed", "lost")
    state = "failed" if failed else "interrupted" if attempts or begun else "pending"
    return JobStatus(job, state, **known, error=attempts[-1].error if attempts else None)


def _finished(job: Job, result: dict[str, Any], known: dict[str, Any]) -> JobStatus:
    test, holds = result["test"], result["proof"].get("holds")
    known |= {name: result.get(name) for name in ("train_images", "train_seconds")}
    if known["train_seconds"]:
        known["images_per_second"] = round(result["train_images"] * result["epochs"] / result["train_seconds"], 1)
    return JobStatus(
        job,
        "done" if holds else "failed",
        **known,
        test=test["is_training_false"]["accuracy"],
        test_batch=test["is_training_true"]["accuracy"],
        examples=test["is_training_false"]["examples"],
        test_scores=test["is_training_false"],
        error=None if holds else "the freeze plan was not kept: see result.json",
    )


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until all jobs are done, and the number of measured jobs behind that estimate."""

    seconds: float
    measured: int


@dataclass(frozen=True)
class Progress:
    """What a display shows while a batch runs: every job, the remaining time if it can be estimated, and the number of
    trials that a search has yet to propose."""

    statuses: Sequence[JobStatus]
    remaining: TimeLeft | None
    to_come: int = 0


class Display:
    """Shows a person how a batch goes; this one shows nothing."""

    def say(self, text: str) -> None:
        """A line about what happened."""

    def show(self, progress: Progress) -> None:
        """Called often, with the status of every job of the call in the file's order."""

    def job_ended(self, status: JobStatus) -> None:
        """Called after each job that ended, however it ended."""


def time_left(statuses: Sequence[JobStatus], pixels: Mapping[str, int | None], slots: int) -> TimeLeft | None:
    """The time that pending, interrupted and running jobs still take on `slots` workers; None without a measurement.

    It comes from measurements of this batch only, never from a guess. `pixels` gives each job's work by its name
    (`Survey.pixels`). A job is expected to process its pixels at the mean speed of the measured jobs of its backbone.
    If none of its backbone is measured, the mean speed of all measured jobs is used. Finished jobs are measured by
    their wall time. While no job has finished, running jobs are measured by their last epoch.
    """
    known = [(one, seconds) for one in statuses if (seconds := _whole_seconds(one)) and pixels.get(one.job.name)]
    measured = [pair for pair in known if pair[0].state == "done"] or known
    if not measured:
        return None
    total = longest = 0.0
    for one in statuses:
        if one.settled or one.state == "failed":
            continue
        work = pixels.get(one.job.name)
        if not work:
            return None
        like = [pair for pair in measured if pair[0].job.config.backbone == one.job.config.backbone] or measured
        speed = sum(pixels[done.job.name] or 0 for done, _ in like) / sum(seconds for _, seconds in like)
        part = 1.0 - (one.epoch / one.epochs if one.epochs else 0.0)
        seconds = work * part / speed
        total, longest = total + seconds, max(longest, seconds)
    return TimeLeft(max(total / max(slots, 1), longest), len(measured))


def _whole_seconds(one: JobStatus) -> float | None:
    """What the whole job took, or takes at the speed of its last epoch."""
    if one.state == "done":
        return max(one.seconds, one.train_seconds or 0.0) or None
    if one.state == "running" and one.epoch_seconds and one.epochs:
        return one.epoch_seconds * one.epochs
    return None
