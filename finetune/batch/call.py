"""One call of `finetune batch`, from the jobs to the summary."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.batch.executors.job_process import Executor
from finetune.batch.folder import BatchFolder, default_folder
from finetune.batch.jobs import Job, JobsFile, select_jobs
from finetune.batch.scheduler import Scheduler
from finetune.batch.search import Search, read_search
from finetune.batch.status import Display, JobStatus, job_status
from finetune.batch.summary import Summary, summarise, write_summary
from finetune.errors import FinetuneError, Interrupted, WrongUse
from finetune.process import stop_signals
from finetune.runs.directory import check_place


@dataclass(frozen=True)
class Call:
    """What to run where. `every` are all jobs of the file, `jobs` those of this call (`--only`). Of a search, both are
    the trials that are known at the start.

    arguments: the options that another `finetune batch` on the same file needs to see the same jobs.
    """

    file: Path
    folder: BatchFolder
    every: tuple[Job, ...]
    jobs: tuple[Job, ...]
    arguments: tuple[str, ...] = ()
    display: Display = field(default_factory=Display)
    search: Search | None = None

    @property
    def count(self) -> int:
        """The number of jobs of this call, those of a search included that are not known yet."""
        return self.search.trials if self.search is not None and self._whole else len(self.jobs)

    @property
    def _whole(self) -> bool:
        return len(self.jobs) == len(self.every)

    @property
    def command(self) -> list[str]:
        """The command line of another `finetune batch` on the same jobs, with absolute paths."""
        file, folder = str(self.file.absolute()), str(self.folder.path.absolute())
        return [sys.executable, "-m", "finetune", "batch", file, "--runs-dir", folder, *self.arguments]

    def check(self) -> None:
        """Raise before any work if the folder cannot be used or the file no longer fits the runs in it."""
        if self.search is not None:
            self.search.check()
        check_place(None, self.folder.path)
        self.folder.refuse_foreign(self.jobs)
        self.folder.refuse_changed(self.jobs, self.file)

    def run(self, executor: Callable[[], Executor], *, fail_fast: bool) -> Summary:
        """Run the jobs that are not done and return the summary, which is written after every job.

        With `--only`, nothing is written here, because several such calls may run at once; `summary_only` writes it
        at the end. KeyboardInterrupt and SIGTERM leave runs that the next call resumes.
        """
        self.check()
        whole = self._whole
        unfinished = [job for job in self.jobs if not job_status(self.folder, job).settled]
        remaining = self.count - len(self.jobs) + len(unfinished)
        if len(unfinished) < len(self.jobs):
            self.display.say(f"{len(self.jobs) - len(unfinished)} of {_jobs(self.count)} done already")
        if not remaining:
            return self._summary(write=whole)
        with stop_signals() as requested, closing(executor()) as where:
            surveys = self._survey(unfinished or self.jobs[:1])  # before anything is written
            with self.folder.locked(shared=not whole):
                self.display.say(f"{_jobs(remaining)} in {self.folder}, {where.describe()}")
                try:
                    Scheduler(
                        self.folder, self.jobs, where, self.display,
                        surveys=surveys, summarise=whole, fail_fast=fail_fast, search=self.search if whole else None,
                    ).run(requested)  # fmt: skip
                finally:
                    summary = self._summary(write=whole)
        done = sum(one.settled for one in self.own(summary))
        if requested() and done < self.count:
            raise Interrupted(f"stopped: {done} of {_jobs(self.count)} done; repeat the command to go on")
        return summary

    def own(self, summary: Summary) -> list[JobStatus]:
        """The statuses of the jobs of this call, and of the trials that a search has added to them."""
        mine = {job.index for job in self.jobs}
        return [one for one in summary.statuses if self._whole or one.job.index in mine]

    def summary_only(self) -> Summary:
        """Write and return the summary of the runs that exist."""
        if not self.folder.path.is_dir():
            raise FinetuneError(f"{self.folder} does not exist: no job of {self.file} has run yet; run the batch first")
        return self._summary(write=True)

    def _summary(self, *, write: bool) -> Summary:
        """All jobs of the file ranked; with `write`, the files of the summary are written too."""
        jobs = self.every if self.search is None else self.search.jobs(self.folder)
        statuses = [job_status(self.folder, job) for job in jobs]
        summary = summarise(statuses, None if self.search is None else self.search.outcome(statuses))
        if write:
            write_summary(self.folder, summary)
        return summary

    def _survey(self, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
        """Check and count each unfinished job as `--dry-run` does, in a process of its own.

        This process lives as long as the batch, so it does without TensorFlow.
        """
        only = [word for job in jobs for word in ("--only", job.name)] if len(jobs) < 1000 else []
        done = subprocess.run(
            [*self.command, "--dry-run", "--json", *only],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
        )
        if done.returncode:
            reason = done.stderr.rpartition("Error: ")[2].strip()
            message = reason or f"the check of the jobs ended with exit code {done.returncode}"
            raise WrongUse(message) if done.returncode == 2 else FinetuneError(message)
        return {row["name"]: row for row in json.loads(done.stdout)["jobs"]}


def open_call(
    file: Path,
    folder: Path | None = None,
    *,
    seeds: int | None = None,
    really: int | None = None,
    only: tuple[str, ...] = (),
    display: Display | None = None,
) -> Call:
    """The call for the jobs file `file`; `folder` (default: beside the file, under its name) holds its runs.

    `seeds` and `really` are those of `read_jobs`, `only` that of `select_jobs`. Raises their errors.
    """
    content = JobsFile(file)
    search = read_search(content, seeds=seeds)
    where = BatchFolder(default_folder(file) if folder is None else folder)
    every = content.read_jobs(seeds=seeds, really=really) if search is None else search.jobs(where)
    given = {"--seeds": seeds, "--yes-really": really}
    arguments = [word for option, value in given.items() if value is not None for word in (option, str(value))]
    return Call(file, where, every, select_jobs(every, only), tuple(arguments), display or Display(), search)


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
