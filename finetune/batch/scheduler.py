"""Work through the jobs: start, watch, judge and retry them, and record what became of each attempt."""

import dataclasses
import datetime
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.batch.executors.job_process import Executor, Handle, Launch, Outcome, judge
from finetune.batch.folder import Attempt, BatchFolder, JobRecord
from finetune.batch.jobs import Job
from finetune.batch.search import Search
from finetune.batch.status import Display, JobStatus, Progress, describe_halved_rate, job_status, time_left
from finetune.batch.summary import summarise, write_summary
from finetune.config import CHANGES, RunConfig, presets, settings_with
from finetune.errors import FinetuneError

_RESTARTS = 5
"""How often one call resumes a job whose process was killed or whose machine died."""
_LEAST_BATCH = 4
_PAUSE = 0.2
"""Seconds between two looks at the running processes."""
_REFRESH = 1.0
"""Seconds between two readings of their files, which may lie on a network."""
_PATIENCE = 120.0
"""Seconds to wait for a process of an earlier call that still holds a job's run directory."""


@dataclass
class _Active:
    job: Job
    handle: Handle
    log_start: int
    began: float


class Scheduler:
    """The jobs of one call of `finetune batch`.

    surveys: a row of `finetune batch --dry-run --json` for each unfinished job, by its name. summarise: whether the
    files of the summary are written after every job. search: what proposes further jobs while there are free slots, and
    stops bad ones.
    """

    def __init__(
        self,
        folder: BatchFolder,
        jobs: Sequence[Job],
        executor: Executor,
        display: Display,
        *,
        surveys: Mapping[str, Mapping[str, Any]],
        summarise: bool,
        fail_fast: bool = False,
        search: Search | None = None,
    ) -> None:
        self._folder, self._jobs, self._executor, self._display = folder, list(jobs), executor, display
        self._search = search
        self._surveys, self._summarise, self._fail_fast = surveys, summarise, fail_fast
        self._active: dict[int, _Active] = {}
        self._restarts: Counter[int] = Counter()
        self._waiting_since: dict[int, float] = {}
        self._judged: dict[int, int] = {}
        self._stopping = False
        self._statuses = {job.index: job_status(folder, job) for job in jobs}
        self._features = {job.index: features_of(job) for job in jobs}
        self._refreshed = 0.0
        self._queue = [job for job in jobs if not self._statuses[job.index].settled]

    def statuses(self) -> list[JobStatus]:
        """The status of every job, in the file's order."""
        return list(self._statuses.values())

    def run(self, stop_requested: Callable[[], bool]) -> list[JobStatus]:
        """Work until every job is done or has failed, or until `stop_requested`: running jobs then save their states.

        A KeyboardInterrupt kills the running jobs and is raised again.
        """
        try:
            while self._active or (not self._stopping and (self._queue or self._to_come())):
                if stop_requested() and not self._stopping:
                    self._stop("stopping: running jobs save their states (once more to kill them)")
                self._ask()
                self._start_jobs()
                self._collect_ended()
                self._refresh()
                self._prune()
                self._show()
                if self._active or self._queue:
                    time.sleep(_PAUSE)
        except BaseException:
            for active in self._active.values():
                active.handle.end(kill=True)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and any(one.handle.poll() is None for one in self._active.values()):
                time.sleep(0.05)
            raise
        return self.statuses()

    def _show(self) -> None:
        statuses, to_come = self.statuses(), self._to_come()
        pixels = {one.job.name: self._survey(one.job).get("pixels") for one in statuses}
        expected = [*statuses, *[JobStatus(job, "pending") for job in self._jobs[:1] * to_come]]
        self._display.show(Progress(statuses, time_left(expected, pixels, self._executor.slots()), to_come))

    def _survey(self, job: Job) -> Mapping[str, Any]:
        """The job's row; of a trial that was proposed later, that of the first one, whose data is the same."""
        return self._surveys.get(job.name) or (self._surveys.get(self._jobs[0].name, {}) if self._search else {})

    def _to_come(self) -> int:
        """How many trials the search has yet to propose."""
        return 0 if self._search is None else self._search.trials - len(self._jobs)

    def _ask(self) -> None:
        """Ask the search for a trial if a slot is free and no job waits for it."""
        if self._search is None or self._stopping or self._queue or len(self._active) >= self._executor.slots():
            return
        job = self._search.next_job(self.statuses())
        if job is not None:
            self._jobs.append(job)
            self._queue.append(job)
            self._statuses[job.index] = job_status(self._folder, job)
            self._features[job.index] = features_of(job)

    def _prune(self) -> None:
        """Stop the trials that the search rejects. That is recorded first: if this process is killed, it holds."""
        for index, active in self._active.items():
            status, job = self._statuses[index], active.job
            if self._search is None or self._stopping or self._judged.get(index) == status.epoch:
                continue
            self._judged[index] = status.epoch
            if self._search.is_pruned(status, self.statuses()):
                record = self._folder.record(job)
                pruned = dataclasses.replace(record.attempts[-1], outcome="pruned")
                self._write_attempt(job, dataclasses.replace(record, attempts=record.attempts[:-1]), pruned)
                active.handle.end(kill=False)

    def _stop(self, reason: str) -> None:
        self._stopping = True
        self._queue = []
        if self._active:
            self._display.say(reason)
        for active in self._active.values():
            active.handle.end(kill=False)

    def _start_jobs(self) -> None:
        """Start as many queued jobs as the executor has slots for."""
        for job in list(self._queue):
            if self._stopping or len(self._active) >= self._executor.slots():
                return
            if any(one.index in self._active for one in self._sharing(job)):
                continue  # a running job computes this one's features
            if holder := self._folder.holder(job):
                self._wait_for_holder(job, holder)
                continue
            self._queue.remove(job)
            self._waiting_since.pop(job.index, None)
            try:
                self._active[job.index] = self._begin(job)
            except (FinetuneError, OSError) as error:
                self._fail(job, str(error))
                continue
            self._statuses[job.index] = job_status(self._folder, job, running=True)

    def _sharing(self, job: Job) -> list[Job]:
        """The jobs that need the same features as `job`. Empty if it needs none, or if one of those jobs is done."""
        wanted = self._features[job.index]
        found = [one for one in self._jobs if wanted is not None and self._features[one.index] == wanted]
        return [] if any(self._statuses[one.index].state == "done" for one in found) else found

    def _wait_for_holder(self, job: Job, holder: str) -> None:
        """Wait up to _PATIENCE: a process of an earlier call saves its state and ends, another user's may not."""
        if job.index not in self._waiting_since:
            self._waiting_since[job.index] = time.monotonic()
            self._display.say(f"{job.name}: waiting for {holder}, which holds its run directory")
        if time.monotonic() - self._waiting_since[job.index] > _PATIENCE:
            self._queue.remove(job)
            self._fail(job, f"{self._folder.run(job)} is in use by {holder}: wait for it, or stop it")

    def _begin(self, job: Job) -> _Active:
        # The file decides this, not what happens to run now: another number of threads may give other bits.
        alone = len(self._sharing(job)) == len(self._jobs)
        record, run = self._folder.record(job), self._folder.run(job)
        if record.attempts:
            self._folder.clear(job, unbegun=True)
        if (run.path / "config.json").is_file():
            arguments: tuple[str, ...] = ("run", "--resume", str(run))
        else:
            # A user who deleted the directory wants the settings that the file has now, at their own batch size.
            record = self._folder.renewed(job, record)
            self._folder.write_config(job, record.batch_size)
            arguments = ("run", "--config", str(self._folder.config(job)), "--run-dir", str(run))
        log = self._folder.log(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        log_start = log.stat().st_size if log.exists() else 0
        # Recorded before the process starts: if this process is killed, the next call knows whose directory it is.
        size = record.batch_size or job.config.batch_size or self._survey(job).get("batch_size")
        self._write_attempt(job, record, Attempt(_now(), batch_size=size))
        handle = self._executor.start(Launch(arguments, log.absolute(), alone=alone))
        return _Active(job, handle, log_start, time.monotonic())

    def _collect_ended(self) -> None:
        """Judge the jobs whose processes have ended; each is queued again or reported as ended."""
        for active in list(self._active.values()):
            ended = active.handle.poll()
            if ended is None:
                continue
            job = active.job
            del self._active[job.index]
            record, done = self._folder.record(job), self._folder.run(job).status == "done"
            outcome = judge(ended, self._folder.log(job), active.log_start, done=done)
            if record.attempts[-1].outcome == "pruned" and not done:
                outcome = Outcome("pruned", None)
            attempt = dataclasses.replace(
                record.attempts[-1],
                outcome=outcome.kind,
                seconds=round(time.monotonic() - active.began, 1),
                exit_code=ended.exit_code,
                error=outcome.error,
            )
            self._write_attempt(job, dataclasses.replace(record, attempts=record.attempts[:-1]), attempt)
            if not self._stopping and self._retry(job, outcome):
                self._queue.insert(0, job)
                self._statuses[job.index] = dataclasses.replace(job_status(self._folder, job), state="pending")
            else:
                self._settle(job)

    def _retry(self, job: Job, outcome: Outcome) -> bool:
        """Whether the job is tried again, which the display reports."""
        if outcome.kind == "out-of-memory":
            return self._halve(job)
        if outcome.kind not in ("killed", "lost") or self._restarts[job.index] == _RESTARTS:
            return False
        self._restarts[job.index] += 1
        self._display.say(f"{job.name}: {outcome.error}; resuming it")
        return True

    def _halve(self, job: Job) -> bool:
        """Prepare the job to start again with half its batch size; False if that would be too small."""
        record = self._folder.record(job)
        size = record.attempts[-1].batch_size
        if size is None or size // 2 < _LEAST_BATCH:
            return False
        # A run that was trained with one batch size cannot be resumed with another.
        self._folder.clear(job)
        self._folder.write_record(job, dataclasses.replace(record, batch_size=size // 2))
        rate = describe_halved_rate(job.config.learning_rate)
        self._display.say(
            f"{job.name}: out of memory; starting again with batch size {size // 2} (learning rate {rate})"
        )
        return True

    def _fail(self, job: Job, error: str) -> None:
        """Record an attempt that failed before its process started."""
        self._write_attempt(job, self._folder.record(job), Attempt(_now(), "failed", error=error))
        self._settle(job)

    def _settle(self, job: Job) -> None:
        status = self._statuses[job.index] = job_status(self._folder, job)
        if self._summarise:
            statuses = self.statuses()
            found = None if self._search is None else self._search.outcome(statuses)
            write_summary(self._folder, summarise(statuses, found))
        self._show()
        self._display.job_ended(status)
        if status.state == "failed" and self._fail_fast and not self._stopping:
            self._stop(f"{job.name} has failed: running jobs save their states (--fail-fast)")

    def _refresh(self) -> None:
        """Read the running jobs' files again, at most every _REFRESH."""
        if time.monotonic() - self._refreshed < _REFRESH:
            return
        self._refreshed = time.monotonic()
        for index, active in self._active.items():
            self._statuses[index] = job_status(self._folder, active.job, running=True)

    def _write_attempt(self, job: Job, record: JobRecord, attempt: Attempt) -> None:
        self._folder.write_record(job, dataclasses.replace(record, attempts=(*record.attempts, attempt)))


def features_of(job: Job) -> tuple[Any, ...] | None:
    """A value that is equal for jobs that train a head on the same frozen backbone: one computes features for all.

    None for jobs that compute everything themselves. With random weights the seed counts as well. A mistake here costs
    time only: the keys of the features decide later whether they are the same (`finetune.training.feature_cache.keys`).
    """
    config: RunConfig = presets.expand(job.config)
    frozen = config.freeze == ("*",) and set(config.bn) <= {"freeze"}
    changed = any(config.is_set(name) for name in CHANGES)
    if not frozen or changed or config.cache_features == "off":
        return None
    return (*(getattr(config, name) for name in settings_with("decides_features")), config.from_scratch and config.seed)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
