"""Where a batch lives: a run directory for every job, and `.batch/` with what the batch itself must remember."""

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
from finetune.runs.config_file import FORMAT_VERSION, read_config_file
from finetune.runs.directory import RunDir


@dataclass(frozen=True)
class Attempt:
    """One process that worked on a job. `outcome` is `running` until the batch has seen it end."""

    started: str
    outcome: str = "running"
    batch_size: int | None = None
    seconds: float = 0.0
    exit_code: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class JobRecord:
    """What the batch remembers of a job: what was asked for, the batch size it came down to, and every attempt."""

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
        """The job's run directory, which need not be there yet."""
        return RunDir(self.path / job.name)

    def log(self, job: Job) -> Path:
        """Everything the job's processes printed."""
        return self._notes(job) / "job.log"

    def config(self, job: Job) -> Path:
        """The config of the job's last attempt, for `finetune run --config`."""
        return self._notes(job) / "config.json"

    def write_config(self, job: Job, batch_size: int | None) -> None:
        """Write `config`, with the batch size it came down to."""
        settings = {**job.config.to_json(), **({} if batch_size is None else {"batch_size": batch_size})}
        text = to_json({"format_version": FORMAT_VERSION, **settings}, indent=2)
        self.config(job).parent.mkdir(parents=True, exist_ok=True)
        write_text(self.config(job), text + "\n")

    def record(self, job: Job) -> JobRecord:
        """What is remembered of the job; an empty record where it never ran here."""
        path = self._notes(job) / "job.json"
        if not path.exists():
            return JobRecord(_plain(job.config.to_json()))
        value = read_json(path)
        try:
            attempts = tuple(Attempt(**attempt) for attempt in value["attempts"])
            return JobRecord(dict(value["requested"]), value["batch_size"], attempts)
        except (KeyError, TypeError, ValueError) as error:
            raise FinetuneError(
                f"{path} is damaged ({error}): delete {path.parent}, and the job is known by its run directory alone"
            ) from None

    def write_record(self, job: Job, record: JobRecord) -> None:
        """Remember it, atomically."""
        self._notes(job).mkdir(parents=True, exist_ok=True)
        write_text(self._notes(job) / "job.json", to_json(dataclasses.asdict(record), indent=2) + "\n")

    def renewed(self, job: Job, record: JobRecord) -> JobRecord:
        """`record`, or an empty one where the job now asks for other settings than it remembers."""
        fresh = JobRecord(_plain(job.config.to_json()))
        return record if record.requested == fresh.requested else fresh

    def refuse_changed(self, jobs: tuple[Job, ...], file: Path) -> None:
        """WrongUse that names every job whose directory was made with other settings than the file has now."""
        changed = [f"{job.name}: {words}" for job in jobs if (words := self._changes(job))]
        if changed:
            some = [*changed[:10], *([f"... and {len(changed) - 10} more"] if len(changed) > 10 else [])]
            raise WrongUse(
                f"{file} has changed under {len(changed)} of its jobs in {self.path}:\n  " + "\n  ".join(some) + "\n"
                "Put the settings back, give the jobs another 'name', give another --runs-dir, or delete their run "
                "directories to have them run anew"
            )

    def refuse_strangers(self, jobs: tuple[Job, ...]) -> None:
        """WrongUse where a job's directory is there but is no run, nor what an attempt of this batch left."""
        for job in jobs:
            path = self.run(job).path
            taken = path.exists() or path.is_symlink()
            if taken and not (path / "config.json").is_file() and not self.record(job).attempts:
                raise WrongUse(f"{path} is already there and is no run: give another --runs-dir, or move it away")

    def clear(self, job: Job, *, unbegun: bool = False) -> None:
        """Remove the job's unfinished run directory; with `unbegun` only where a killed attempt left it before it was
        a run, without config.json. A finished run stays."""
        run = self.run(job)
        if not run.path.is_dir() or run.path.is_symlink() or run.status == "done":
            return
        if not (unbegun and (run.path / "config.json").exists()):
            shutil.rmtree(run.path)

    def held(self, job: Job) -> str | None:
        """Which other process works in the job's run directory now, in words; None where none does."""
        try:
            with self.run(job).locked():
                return None
        except FileNotFoundError:
            return None
        except Held as found:
            return found.holder

    @contextlib.contextmanager
    def locked(self, *, shared: bool) -> Iterator[None]:
        """Hold the batch for this process: alone, or beside others that run single jobs of it (`shared`)."""
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
        """What differs between the file and what the job was run with, in words; empty where nothing does."""
        run, asked = self.run(job), _plain(job.config.to_json())
        if not (run.path / "config.json").is_file():
            return ""
        if (self._notes(job) / "job.json").exists():
            before = {**_plain(DEFAULTS), **self.record(job).requested}
        else:
            # A run made by hand: its config is complete, so what the file leaves open may be anything.
            before = {name: value for name, value in asked.items() if value is None or value == "auto"}
            before = {**read_config_file(run.path / "config.json"), **before}
            before["backbone"] = _like(before.get("backbone"), asked["backbone"])
        done = run.status == "done"
        return ", ".join(
            f"{name} is {json.dumps(before.get(name))} there, {json.dumps(value)} in the file"
            for name, value in asked.items()
            # Where files lie now is no matter to a finished run.
            if before.get(name) != value and not (done and name in PATHS)
        )


def default_place(file: Path) -> Path:
    """`night.toml` lives in `night`, beside it."""
    return file.with_suffix("") if file.suffix else file.with_name(f"{file.name}-runs")


def _like(complete: Any, asked: Any) -> Any:
    """A backbone's full name as the file writes it, where the file leaves its source out."""
    return asked if isinstance(complete, str) and complete.endswith(f"/{asked}") else complete


def _plain(value: Any) -> Any:
    """As it is once it went through JSON: tuples are lists."""
    return json.loads(json.dumps(value))
