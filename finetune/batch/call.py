"""One call of `finetune batch`, from the jobs to the summary."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.batch import summary as summaries
from finetune.batch import timing
from finetune.batch.executors.job_process import Executor
from finetune.batch.folder import BatchFolder
from finetune.batch.jobs import Job
from finetune.batch.scheduler import Scheduler
from finetune.batch.status import JobStatus, look
from finetune.batch.summary import Summary
from finetune.batch.timing import TimeLeft
from finetune.errors import FinetuneError, Interrupted, WrongUse
from finetune.process import stop_signals
from finetune.runs.directory import check_place


@dataclass(frozen=True)
class Progress:
    """What a display shows while a batch runs."""

    standings: Sequence[JobStatus]
    left: TimeLeft | None


class Display:
    """What a batch tells a person; this one says nothing."""

    def say(self, text: str) -> None:
        """A line about what happened."""

    def show(self, progress: Progress) -> None:
        """Often: where every job stands."""

    def settled(self, standing: JobStatus) -> None:
        """After a job has ended, however it ended."""


@dataclass(frozen=True)
class Call:
    """What to run where. `every` are all jobs of the file, `jobs` those of this call (`--only`)."""

    file: Path
    place: BatchFolder
    every: tuple[Job, ...]
    jobs: tuple[Job, ...]
    survey_arguments: tuple[str, ...] = ()
    display: Display = field(default_factory=Display)

    def check(self) -> None:
        """Raise before any work where the place will not do or the file has changed under its runs."""
        check_place(None, self.place.path)
        self.place.refuse_strangers(self.jobs)
        self.place.refuse_changed(self.jobs, self.file)

    def run(self, executor: Callable[[], Executor], *, fail_fast: bool) -> Summary:
        """Run what is not done; the summary is written after every job, and given.

        Under `--only` the summary is written at the end by whoever asks for it (`summary_only`): several such calls
        may run at once. KeyboardInterrupt and SIGTERM leave runs that the next call goes on with.
        """
        self.check()
        single = len(self.jobs) < len(self.every)
        unfinished = [job for job in self.jobs if look(self.place, job).state != "done"]
        if len(unfinished) < len(self.jobs):
            self.display.say(f"{len(self.jobs) - len(unfinished)} of {_jobs(len(self.jobs))} done already")
        if not unfinished:
            return self.summarised(self._look(), write=not single)
        with stop_signals() as requested:
            where = executor()
            try:
                surveys = self._survey(unfinished)  # before anything is written
                with self.place.locked(shared=single):
                    return self._run(where, surveys, requested, fail_fast=fail_fast, write=not single)
            finally:
                where.close()

    def _run(
        self,
        where: Executor,
        surveys: Mapping[str, Mapping[str, Any]],
        requested: Callable[[], bool],
        *,
        fail_fast: bool,
        write: bool,
    ) -> Summary:
        self.display.say(f"{_jobs(len(surveys))} in {self.place}, {where.describe()}")
        scheduler = Scheduler(
            self.place,
            self.jobs,
            where,
            _Watcher(self, self._look(), surveys, where, write=write),
            default_batch=lambda job: surveys.get(job.name, {}).get("batch_size"),
            fail_fast=fail_fast,
        )
        try:
            scheduler.run(requested)
        finally:
            standings = self._look()
            summary = self.summarised(standings, write=write)
        done = sum(standings[job.index].state == "done" for job in self.jobs)
        if requested() and done < len(self.jobs):
            raise Interrupted(f"stopped: {done} of {_jobs(len(self.jobs))} done; the same command goes on")
        return summary

    def summary_only(self) -> Summary:
        """The summary of what there is, written."""
        if not self.place.path.is_dir():
            raise FinetuneError(f"{self.place} is not there: no job of {self.file} has run yet; run the batch first")
        return self.summarised(self._look(), write=True)

    def _look(self) -> dict[int, JobStatus]:
        return {job.index: look(self.place, job) for job in self.every}

    def summarised(self, standings: Mapping[int, JobStatus], *, write: bool) -> Summary:
        """All jobs of the file ranked; with `write`, also its files."""
        summary = summaries.summarise([standings[job.index] for job in self.every])
        if write:
            summaries.write(self.place, summary)
        return summary

    def _survey(self, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
        """Each unfinished job checked and counted, by a process of its own that does what `--dry-run` does: this one
        lives all night and does without TensorFlow."""
        named = [word for job in jobs for word in ("--only", job.name)] if len(jobs) < 1000 else []
        command = [sys.executable, "-m", "finetune", "batch", str(self.file), "--dry-run", "--json", "--runs-dir"]
        done = subprocess.run(
            [*command, str(self.place), *self.survey_arguments, *named],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
        )
        if done.returncode:
            message = (
                done.stderr.rpartition("Error: ")[2].strip() or f"the check of the jobs ended by {done.returncode}"
            )
            raise WrongUse(message) if done.returncode == 2 else FinetuneError(message)
        return {row["name"]: row for row in json.loads(done.stdout)["jobs"]}


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


class _Watcher:
    """Passes on what the scheduler says, with the time left, and writes the summary after every job."""

    def __init__(
        self,
        call: Call,
        standings: dict[int, JobStatus],
        surveys: Mapping[str, Mapping[str, Any]],
        executor: Executor,
        *,
        write: bool,
    ) -> None:
        self._call, self._standings, self._executor, self._write = call, standings, executor, write
        self._pixels = {name: row.get("pixels") for name, row in surveys.items()}

    def say(self, text: str) -> None:
        """Passed on."""
        self._call.display.say(text)

    def show(self, standings: Sequence[JobStatus]) -> None:
        """With the time left."""
        self._call.display.show(Progress(standings, timing.left(standings, self._pixels, self._executor.slots())))

    def settled(self, standings: Sequence[JobStatus], standing: JobStatus) -> None:
        """The files are written anew."""
        self._standings |= {one.job.index: one for one in standings}
        self._call.summarised(self._standings, write=self._write)
        self.show(standings)
        self._call.display.settled(standing)
