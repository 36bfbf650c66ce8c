"""Work through the jobs: start, watch, judge, try again, and write down what was learnt after each."""

import dataclasses
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from finetune.batch.executors.job_process import Executor, Handle, Launch
from finetune.batch.folder import Attempt, BatchFolder, JobRecord
from finetune.batch.jobs import Job
from finetune.batch.outcome import Outcome, judge
from finetune.batch.sharing import features_of
from finetune.batch.status import JobStatus, look
from finetune.errors import FinetuneError

_RESTARTS = 5
"""How often, in one call, a job is resumed whose process was killed or whose machine died."""
_LEAST_BATCH = 4
_PATIENCE = 120.0
"""Seconds to wait for a process of an earlier call that still holds a job's run directory."""


class Watcher(Protocol):
    """Hears how the batch goes."""

    def say(self, text: str) -> None:
        """A line about what happened."""

    def show(self, standings: Sequence[JobStatus]) -> None:
        """Often: where every job stands, in the file's order."""

    def settled(self, standings: Sequence[JobStatus], standing: JobStatus) -> None:
        """After each job that ended, however it ended: all of them, and that one."""


@dataclass
class _Active:
    job: Job
    handle: Handle
    log_start: int
    began: float


class Scheduler:
    """The jobs of one call of `finetune batch`.

    `default_batch` gives the batch size a job takes that names none (None where that is not known).
    """

    def __init__(
        self,
        place: BatchFolder,
        jobs: Sequence[Job],
        executor: Executor,
        watcher: Watcher,
        *,
        default_batch: Callable[[Job], int | None],
        fail_fast: bool = False,
        pause: float = 0.2,
    ) -> None:
        self._place, self._jobs, self._executor, self._watcher = place, jobs, executor, watcher
        self._default_batch, self._fail_fast, self._pause = default_batch, fail_fast, pause
        self._active: dict[int, _Active] = {}
        self._restarts: dict[int, int] = {}
        self._waiting_since: dict[int, float] = {}
        self._stopping = False
        self._standings = {job.index: look(place, job) for job in jobs}
        self._features = {job.index: features_of(job) for job in jobs}
        self._looked = 0.0
        self._queue = [job for job in jobs if self._standings[job.index].state != "done"]

    def standings(self) -> list[JobStatus]:
        """Where every job stands, in the file's order."""
        return [self._standings[job.index] for job in self._jobs]

    def run(self, stop_requested: Callable[[], bool]) -> list[JobStatus]:
        """Until every job is done or has failed, or `stop_requested`, when the running ones save their states.

        A KeyboardInterrupt kills what runs, and is passed on.
        """
        try:
            while self._active or (self._queue and not self._stopping):
                if stop_requested() and not self._stopping:
                    self._stop("stopping: running jobs save their states (once more to kill them)")
                self._start_what_fits()
                self._reap()
                self._refresh()
                self._watcher.show(self.standings())
                if self._active or self._queue:
                    time.sleep(self._pause)
        except BaseException:
            for active in self._active.values():
                active.handle.kill()
            for active in self._active.values():
                self._wait_for_end(active)
            raise
        return self.standings()

    def _stop(self, words: str) -> None:
        self._stopping = True
        self._queue = []
        if self._active:
            self._watcher.say(words)
        for active in self._active.values():
            active.handle.stop()

    def _start_what_fits(self) -> None:
        for job in list(self._queue):
            if self._stopping or len(self._active) >= self._executor.slots():
                return
            if any(one.index in self._active for one in self._sharing(job)):
                continue  # what computes the features for it is under way
            if holder := self._place.held(job):
                self._wait_for_holder(job, holder)
                continue
            self._queue.remove(job)
            self._waiting_since.pop(job.index, None)
            try:
                self._active[job.index] = self._begin(job)
            except (FinetuneError, OSError) as error:
                self._write_attempt(job, self._place.record(job), Attempt(_now(), "failed", error=str(error)))
                self._settle(job)
                continue
            self._standings[job.index] = look(self._place, job, running=True)

    def _sharing(self, job: Job) -> list[Job]:
        """The jobs that will want the features `job` will want; none where it wants none, or they are there."""
        wanted = self._features[job.index]
        found = [one for one in self._jobs if wanted is not None and self._features[one.index] == wanted]
        return [] if any(self._standings[one.index].state == "done" for one in found) else found

    def _wait_for_holder(self, job: Job, holder: str) -> None:
        """A process that outlived an earlier call saves its state and goes; another one may be somebody's."""
        if job.index not in self._waiting_since:
            self._waiting_since[job.index] = time.monotonic()
            self._watcher.say(f"{job.name}: waiting for {holder}, which holds its run directory")
        if time.monotonic() - self._waiting_since[job.index] > _PATIENCE:
            self._queue.remove(job)
            error = f"{self._place.run(job)} is in use by {holder}: wait for it, or stop it"
            self._write_attempt(job, self._place.record(job), Attempt(_now(), "failed", error=error))
            self._settle(job)

    def _begin(self, job: Job) -> _Active:
        # Told by the file and not by what happens to run: with another number of threads, other bits may come out.
        alone = len(self._sharing(job)) == len(self._jobs)
        record, run = self._place.record(job), self._place.run(job)
        if record.attempts:
            self._place.clear(job, unbegun=True)
        if (run.path / "config.json").is_file():
            arguments: tuple[str, ...] = ("run", "--resume", str(run))
        else:
            # Whoever deleted the directory wants the file's settings of today, at their own batch size.
            record = self._place.renewed(job, record)
            self._place.write_config(job, record.batch_size)
            arguments = ("run", "--config", str(self._place.config(job)), "--run-dir", str(run))
        log = self._place.log(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        log_start = log.stat().st_size if log.exists() else 0
        # Before the process: should this one be killed, the next call knows whose the directory is.
        size = record.batch_size or job.config.batch_size or self._default_batch(job)
        self._place.write_record(
            job, dataclasses.replace(record, attempts=(*record.attempts, Attempt(_now(), batch_size=size)))
        )
        return _Active(job, self._executor.start(Launch(arguments, log, alone=alone)), log_start, time.monotonic())

    def _reap(self) -> None:
        for active in list(self._active.values()):
            ended = active.handle.poll()
            if ended is None:
                continue
            del self._active[active.job.index]
            job, record = active.job, self._place.record(active.job)
            outcome = judge(
                ended,
                self._place.log(job),
                active.log_start,
                done=self._place.run(job).status == "done",
            )
            attempt = dataclasses.replace(
                record.attempts[-1],
                outcome=outcome.kind,
                seconds=round(time.monotonic() - active.began, 1),
                exit_code=ended.exit_code,
                error=outcome.error,
            )
            self._write_attempt(job, dataclasses.replace(record, attempts=record.attempts[:-1]), attempt)
            if not self._stopping and self._again(job, outcome):
                self._queue.insert(0, job)
                self._standings[job.index] = dataclasses.replace(look(self._place, job), state="pending")
                continue
            self._settle(job)

    def _again(self, job: Job, outcome: Outcome) -> bool:
        """Whether the job is tried once more; says so."""
        if outcome.kind == "out-of-memory":
            return self._halve(job)
        if outcome.kind in ("killed", "lost"):
            count = self._restarts[job.index] = self._restarts.get(job.index, 0) + 1
            if count <= _RESTARTS:
                self._watcher.say(f"{job.name}: {outcome.error}; going on with it")
                return True
        return False

    def _halve(self, job: Job) -> bool:
        record = self._place.record(job)
        size = record.attempts[-1].batch_size
        if size is None or size // 2 < _LEAST_BATCH:
            return False
        # What was trained with the old batch size cannot be gone on with under another.
        self._place.clear(job)
        self._place.write_record(job, dataclasses.replace(record, batch_size=size // 2))
        asked = job.config.learning_rate
        rate = "scaled with it" if asked is None else "found anew" if asked == "auto" else "kept"
        self._watcher.say(f"{job.name}: out of memory; anew with batch size {size // 2} (learning rate {rate})")
        return True

    def _settle(self, job: Job) -> None:
        standing = self._standings[job.index] = look(self._place, job)
        self._watcher.settled(self.standings(), standing)
        if standing.state == "failed" and self._fail_fast and not self._stopping:
            self._stop(f"{job.name} has failed: running jobs save their states (--fail-fast)")

    def _refresh(self) -> None:
        """Read the running jobs' files again, now and then: they may lie on a network."""
        if time.monotonic() - self._looked < 1.0:
            return
        self._looked = time.monotonic()
        for index, active in self._active.items():
            self._standings[index] = look(self._place, active.job, running=True)

    def _write_attempt(self, job: Job, record: JobRecord, attempt: Attempt) -> None:
        self._place.write_record(job, dataclasses.replace(record, attempts=(*record.attempts, attempt)))

    def _wait_for_end(self, active: _Active) -> None:
        deadline = time.monotonic() + 10
        while active.handle.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
