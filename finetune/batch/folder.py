"""The folder of a batch: a run directory for every job, and `.batch/` with the records of the batch itself."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.batch.jobs import Job
from finetune.config import DEFAULTS, PATHS
from finetune.errors import FinetuneError, WrongUse
from finetune.files import Held, locked, read_json, to_json, write_text
from finetune.runs.directory import FORMAT_VERSION, RunDir, read_config_file


@dataclass(frozen=True)
class Attempt:
    """One process that worked on a job. `outcome` is `running` until the batch has seen it end, or has decided that it
    is `pruned`."""

    started: str
    outcome: str = "running"
    batch_size: int | None = None
    seconds: float = 0.0
    exit_code: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class JobRecord:
    """The record of a job: the settings it was started with, its batch size if that was reduced, and every attempt."""

    requested: dict[str, Any]
    batch_size: int | None = None
    attempts: tuple[Attempt, ...] = ()


class BatchFolder:
    """The folder of a batch (`--runs-dir`) and the files in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def run(self, job: Job) -> RunDir:
        """The job's run directory, which may not exist yet."""
        return RunDir(self.path / job.name)

    def log(self, job: Job) -> Path:
        """The file with everything that the job's processes printed."""
        return self._notes(job) / "job.log"

    def config(self, job: Job) -> Path:
        """The config of the job's last attempt, for `finetune run --config`."""
        return self._notes(job) / "config.json"

    def write_config(self, job: Job, batch_size: int | None) -> None:
        """Write `config`, with `batch_size` in place of the job's own unless it is None."""
        settings = job.config.to_json()
        if batch_size is not None:
            settings["batch_size"] = batch_size
        self._write(self.config(job), {"format_version": FORMAT_VERSION, **settings})

    def record(self, job: Job) -> JobRecord:
        """The job's record; one without attempts if it never ran here."""
        path = self._notes(job) / "job.json"
        if not path.exists():
            return JobRecord(_plain(job.config.to_json()))
        value = read_json(path)
        try:
            attempts = tuple(Attempt(**attempt) for attempt in value["attempts"])
            return JobRecord(dict(value["requested"]), value["batch_size"], attempts)
        except (KeyError, TypeError, ValueError) as error:
            raise FinetuneError(
                f"{path} is damaged ({error}): delete {path.parent}, then the job's run directory alone is used"
            ) from None

    def requested(self, name: str) -> dict[str, Any] | None:
        """The settings in the record of the job called `name`; None if it never ran here."""
        path = self.path / ".batch" / name / "job.json"
        if not path.exists():
            return None
        found = read_json(path).get("requested")
        if not isinstance(found, dict):
            raise FinetuneError(f"{path} is damaged: delete {path.parent} and {self.path / name} to choose it again")
        return found

    def write_record(self, job: Job, record: JobRecord) -> None:
        """Replace the job's record, atomically."""
        self._write(self._notes(job) / "job.json", dataclasses.asdict(record))

    def _write(self, path: Path, value: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, to_json(value, indent=2) + "\n")

    def renewed(self, job: Job, record: JobRecord) -> JobRecord:
        """`record`, or one without attempts if the job's settings are no longer those in `record`."""
        fresh = JobRecord(_plain(job.config.to_json()))
        return record if record.requested == fresh.requested else fresh

    def refuse_changed(self, jobs: tuple[Job, ...], file: Path) -> None:
        """Raise WrongUse that lists the jobs whose directories were made with other settings than the file has now."""
        changed = [f"{job.name}: {words}" for job in jobs if (words := self._changes(job))]
        if changed:
            listed = "\n  ".join(changed[:10])
            more = f"\n  ... and {len(changed) - 10} more" if len(changed) > 10 else ""
            raise WrongUse(
                f"{file} has changed since {len(changed)} of its jobs in {self.path} were run:\n  {listed}{more}\n"
                "Restore the settings, give the jobs another 'name', give another --runs-dir, or delete their run "
                "directories to run them again"
            )

    def refuse_foreign(self, jobs: tuple[Job, ...]) -> None:
        """Raise WrongUse if a job's directory exists but is neither a run nor left by an attempt of this batch."""
        for job in jobs:
            path = self.run(job).path
            exists = path.exists() or path.is_symlink()
            if exists and not (path / "config.json").is_file() and not self.record(job).attempts:
                raise WrongUse(f"{path} already exists and is not a run: give another --runs-dir, or move it away")

    def clear(self, job: Job, *, unbegun: bool = False) -> None:
        """Remove the job's unfinished run directory; a finished run stays.

        With `unbegun`, remove it only if it has no config.json: an attempt was killed before it had written one.
        """
        run = self.run(job)
        if not run.path.is_dir() or run.path.is_symlink() or run.status == "done":
            return
        if not (unbegun and (run.path / "config.json").exists()):
            shutil.rmtree(run.path)

    def holder(self, job: Job) -> str | None:
        """A description of the other process that works in the job's run directory now; None if there is none."""
        try:
            with self.run(job).locked():
                return None
        except FileNotFoundError:
            return None
        except Held as found:
            return found.holder

    @contextlib.contextmanager
    def locked(self, *, shared: bool) -> Iterator[None]:
        """Lock the batch for this process: alone, or together with others that run single jobs of it (`shared`)."""
        folder = self.path / ".batch"
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(folder / ".lock", shared=shared))
            except Held as found:
                raise FinetuneError(
                    f"{self.path} is in use by another 'finetune batch' ({found.holder}): wait for it or stop it; "
                    "--summary-only shows how far it is"
                ) from None
            yield

    def _notes(self, job: Job) -> Path:
        return self.path / ".batch" / job.name

    def _changes(self, job: Job) -> str:
        """The settings that differ between the file and the job's run, as text; empty if none do."""
        run, asked = self.run(job), _plain(job.config.to_json())
        if not (run.path / "config.json").is_file():
            return ""
        if (self._notes(job) / "job.json").exists():
            before = {**_plain(DEFAULTS), **self.record(job).requested}
        else:
            # A run made by hand: its config is complete, so settings that the file leaves open may have any value.
            before = {name: value for name, value in asked.items() if value is None or value == "auto"}
            before = {**read_config_file(run.path / "config.json"), **before}
            before["backbone"] = _like(before.get("backbone"), asked["backbone"])
        done = run.status == "done"
        return ", ".join(
            f"{name} is {json.dumps(before.get(name))} there, {json.dumps(value)} in the file"
            for name, value in asked.items()
            # A finished run does not need its files any more, so their paths may change.
            if before.get(name) != value and not (done and name in PATHS)
        )


def default_folder(file: Path) -> Path:
    """The folder of a jobs file's batch: for `night.toml` it is `night`, beside it."""
    return file.with_suffix("") if file.suffix else file.with_name(f"{file.name}-runs")


def _like(complete: Any, asked: Any) -> Any:
    """A backbone's full name in the form the file uses, if the file leaves out its source."""
    return asked if isinstance(complete, str) and complete.endswith(f"/{asked}") else complete


def _plain(value: Any) -> Any:
    """`value` as JSON would give it back: tuples become lists."""
    return json.loads(json.dumps(value))
