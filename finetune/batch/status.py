"""How far a job is, read from the files of its run: nothing about it is stored twice."""

from dataclasses import dataclass
from typing import Any

from finetune.batch.folder import BatchFolder, JobRecord
from finetune.batch.jobs import Job
from finetune.errors import FinetuneError
from finetune.files import read_json
from finetune.runs.directory import RunDir, kept_validation

STATES = ("done", "failed", "running", "interrupted", "pending")


@dataclass(frozen=True)
class JobStatus:
    """One job. `state` is one of STATES; accuracies are fractions in [0, 1]; what is not known yet is None.

    validation: accuracy of the weights that were kept (with `patience` the best epoch's, else the last one's).
    test, test_batch: test accuracy with `is_training=False` (moving statistics) and True (batch statistics).
    reduced_from: the batch size before it was halved for want of memory.
    """

    job: Job
    state: str
    epoch: int = 0
    epochs: int | None = None
    step: int = 0
    batch_size: int | None = None
    reduced_from: int | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None
    epoch_seconds: float | None = None
    validation: float | None = None
    test: float | None = None
    test_batch: float | None = None
    examples: int | None = None
    train_images: int | None = None
    train_seconds: float | None = None
    seconds: float = 0.0
    attempts: int = 0
    error: str | None = None

    @property
    def steps(self) -> int | None:
        """Steps in all, once an epoch has shown how many there are in one."""
        return round(self.step / self.epoch * self.epochs) if self.epoch and self.epochs else None

    @property
    def note(self) -> str:
        """What a reader of its accuracy must know, or nothing."""
        if self.reduced_from is None:
            return ""
        explicit = self.job.config.learning_rate
        rate = "learning rate scaled with it" if explicit is None else f"learning rate kept at {explicit}"
        rate = "learning rate found anew" if explicit == "auto" else rate
        return f"batch {self.reduced_from} -> {self.batch_size} (out of memory; {rate})"


def look(place: BatchFolder, job: Job, *, running: bool = False) -> JobStatus:
    """The job's standing; `running` where the caller holds its process. A damaged file makes it failed."""
    try:
        record = place.record(job)
        return _look(place, job, record, running=running)
    except FinetuneError as error:
        return JobStatus(job, "failed", error=str(error))


def _look(place: BatchFolder, job: Job, record: JobRecord, *, running: bool) -> JobStatus:
    run, attempts = place.run(job), record.attempts
    known: dict[str, Any] = {
        "attempts": len(attempts),
        "seconds": sum(attempt.seconds for attempt in attempts),
        "epochs": job.config.epochs,
        "batch_size": job.config.batch_size,
    }
    if (run.path / "config.json").is_file():
        config = read_json(run.path / "config.json")
        known |= {name: config.get(name) for name in ("epochs", "batch_size", "learning_rate")}
    if record.batch_size is not None:
        known |= {
            "batch_size": record.batch_size,
            "reduced_from": next((attempt.batch_size for attempt in attempts if attempt.batch_size), None),
        }
    rows = _epochs(run)
    if rows:
        last = rows[-1]
        known |= {
            "epoch": last.get("epoch", 0),
            "step": last.get("step", 0),
            "images_per_second": last.get("images_per_second"),
            "epoch_seconds": last.get("seconds"),
            "validation": kept_validation(rows, patience=job.config.patience is not None),
        }
    if running or (attempts and attempts[-1].outcome == "running" and run.status != "done" and place.held(job)):
        return JobStatus(job, "running", **known)
    if run.status == "done":
        return _finished(job, run.read("result.json", "test", "proof"), known)
    if not attempts and not (run.path / "config.json").is_file():
        return JobStatus(job, "pending", **known)
    last_attempt = attempts[-1] if attempts else None
    failed = last_attempt is not None and last_attempt.outcome in ("failed", "out-of-memory", "killed", "lost")
    return JobStatus(
        job, "failed" if failed else "interrupted", **known, error=last_attempt.error if last_attempt else None
    )


def _finished(job: Job, result: dict[str, Any], known: dict[str, Any]) -> JobStatus:
    test, proof = result["test"], result["proof"]
    known |= {name: result.get(name) for name in ("train_images", "train_seconds")}
    if known["train_seconds"]:
        known["images_per_second"] = round(result["train_images"] * result["epochs"] / result["train_seconds"], 1)
    return JobStatus(
        job,
        "done" if proof.get("holds") else "failed",
        **known,
        test=test["is_training_false"]["accuracy"],
        test_batch=test["is_training_true"]["accuracy"],
        examples=test["is_training_false"]["examples"],
        error=None if proof.get("holds") else "the freeze plan was not kept: see result.json",
    )


def _epochs(run: RunDir) -> list[dict[str, Any]]:
    """The rows of finished epochs so far; none where they cannot be read."""
    try:
        return run.epochs()
    except (OSError, FinetuneError):
        return []
