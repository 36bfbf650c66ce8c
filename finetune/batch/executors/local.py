"""Jobs on this machine, forked from a process that has already imported TensorFlow."""

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from types import ModuleType
from typing import Any

from setproctitle import setproctitle

from finetune.batch.executors.job_process import LIFELINE, Ended, Handle, Launch, Process
from finetune.process import limit_threads


class Forked(Process):
    """A child forked by `multiprocessing` from a process that has already imported TensorFlow (`warm`).

    That saves seconds for each job.
    """

    _LOST = 255
    """The exit code that `multiprocessing` reports if the fork server has died; `finetune` never ends with it."""

    def _started(self, launch: Launch, lifeline: int) -> Any:
        environment = {**os.environ, **launch.environment}
        # daemon: if this process ends in disorder, the child gets SIGTERM and is not waited for.
        child = _forks().Process(target=_job, args=(launch, environment, DupFd(lifeline)), daemon=True)
        with _starting(environment):
            child.start()
        return child

    def wait(self) -> Ended:
        """Wait for its end."""
        self._child.join()
        return self._ended()

    def _poll(self) -> int | None:
        code: int | None = self._child.exitcode
        return code

    def _describe_end(self, code: int | None) -> Ended:
        if code != self._LOST:
            return super()._describe_end(code)
        with suppress(ProcessLookupError):  # the job may live on and hold its run directory
            os.kill(self.pid, signal.SIGKILL)
        return Ended(None, lost="the process that jobs are forked from has died")


def _forks() -> Any:
    """The context of `multiprocessing` whose fork server imports TensorFlow before the first fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["finetune.batch.executors.warm"])
    return context


def _job(launch: Launch, environment: dict[str, str], lifeline: Any) -> None:
    """In the child: behave as `python -m finetune ...` does."""
    os.setsid()
    nowhere, log = os.open(os.devnull, os.O_RDONLY), os.open(launch.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for source, target in ((nowhere, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nowhere)
    os.close(log)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment, **{LIFELINE: str(lifeline.detach())})
    limit_threads()
    sys.argv = ["finetune", *launch.arguments]
    setproctitle(" ".join(launch.command))  # ps and pkill would show the fork server's command otherwise
    try:
        runpy.run_module("finetune", run_name="__main__", alter_sys=True)
    finally:
        # `multiprocessing` skips these functions in a child; TensorFlow removes its temporary files in one of them.
        atexit._run_exitfuncs()


@contextmanager
def _starting(environment: dict[str, str]) -> Iterator[None]:
    """Inside, the fork server starts with `environment`, and no child runs the user's script again.

    OpenBLAS reads its number of threads when it is loaded, before the fork. `multiprocessing` would otherwise import
    the user's main script in each child.
    """
    kept, script = dict(os.environ), sys.modules["__main__"]
    os.environ.update(environment)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        os.environ.clear()
        os.environ.update(kept)


class Local:
    """At most `workers` processes on this machine, which share the cores that this process may use."""

    def __init__(self, workers: int, cores: int) -> None:
        self._workers, self._cores = workers, cores
        self.threads = max(1, cores // workers)

    def warm_up(self) -> None:
        """Begin to import what jobs are forked from, which takes seconds, and return at once."""
        if sys.platform == "linux":
            _forks()
            with _starting({**os.environ, "FINETUNE_THREADS": str(self.threads)}):
                forkserver.ensure_running()

    def slots(self) -> int:
        """The number of workers."""
        return self._workers

    def describe(self) -> str:
        """Such as `2 at once, 4 of 8 cores each`."""
        if self._workers == 1:
            return f"1 at once, on {self._cores} core{'s' if self._cores > 1 else ''}"
        more = ", which is more than there are cores" if self._workers > self._cores else ""
        return f"{self._workers} at once{more}, {self.threads} of {self._cores} cores each"

    def start(self, launch: Launch) -> Handle:
        """Start a child."""
        threads = self._cores if launch.alone else self.threads
        environment = {"FINETUNE_THREADS": str(threads), **launch.environment}
        if self._workers > 1:
            # Without it, the first process that sees a GPU takes all of its memory.
            environment.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        # On other systems, libraries that TensorFlow loads do not survive a fork.
        kind = Forked if sys.platform == "linux" else Process
        return kind(replace(launch, environment=environment))

    def close(self) -> None:
        """A local executor holds nothing."""
