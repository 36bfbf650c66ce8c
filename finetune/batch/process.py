"""A job's process: `python -m finetune ...`, its output in a log, its life tied to whoever started it."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Protocol

from finetune.batch import memory

LIFELINE = "FINETUNE_LIFELINE"
"""The environment variable that names the descriptor `finetune.cli.startup.follow_lifeline` listens to."""


@dataclass(frozen=True)
class Launch:
    """A process to start: the arguments of `finetune`, the log its output is added to, variables on top of ours."""

    arguments: tuple[str, ...]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        """What is executed: this interpreter, so that it is this installation."""
        return [sys.executable, "-m", "finetune", *self.arguments]


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    exit_code: negative for a signal; None where nobody saw it, and `lost` says why.
    oom_kills: how many processes the kernel of its machine killed for want of memory while it ran; None where it does
        not say.
    """

    exit_code: int | None
    lost: str | None = None
    oom_kills: int | None = None


class Handle(Protocol):
    """A job's process, wherever it is."""

    def poll(self) -> Ended | None:
        """How it ended; None while it lives or waits for a place."""

    def stop(self) -> None:
        """Ask it to save its state and end."""

    def kill(self) -> None:
        """End it now."""


class Executor(Protocol):
    """Where jobs run."""

    def slots(self) -> int:
        """How many jobs may be under way at once, now."""

    def describe(self) -> str:
        """For the first line: where, how many at once, with how much each."""

    def start(self, launch: Launch) -> Handle:
        """Start a process."""

    def close(self) -> None:
        """Let go of what was held; the processes have ended."""


class Process:
    """A child of this process.

    Its own session, because Ctrl-C in a terminal goes to everybody in ours: this process decides who is told to stop,
    once. It reads a pipe whose other end is here: when this process ends, however it ends, the child saves its state
    and ends too (`follow_lifeline`).
    """

    def __init__(self, launch: Launch) -> None:
        self._end: Ended | None = None
        self._oom_kills = memory.oom_kill_count()
        read, self._hold = os.pipe()
        try:
            launch.log.parent.mkdir(parents=True, exist_ok=True)
            self._child: Any = self._started(launch, read)
        except BaseException:
            os.close(self._hold)
            raise
        finally:
            os.close(read)

    def _started(self, launch: Launch, lifeline: int) -> Any:
        with open(launch.log, "ab") as log:
            return subprocess.Popen(
                launch.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lifeline,),
                start_new_session=True,
                env={**os.environ, **launch.environment, LIFELINE: str(lifeline)},
            )

    @property
    def pid(self) -> int:
        """The child's process number."""
        return int(self._child.pid)

    def poll(self) -> Ended | None:
        """How it ended, or None."""
        return None if self._poll() is None else self._ended()

    def wait(self) -> Ended:
        """Wait for its end."""
        self._child.wait()
        return self._ended()

    def stop(self) -> None:
        """SIGTERM: it saves its state after the step it is at."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self._poll() is None:
            os.kill(self.pid, number)

    def _poll(self) -> int | None:
        code: int | None = self._child.poll()
        return code

    def _ended(self) -> Ended:
        if self._end is None:
            os.close(self._hold)
            self._end = self._how(self._poll())
        return self._end

    def _how(self, code: int | None) -> Ended:
        before, now = self._oom_kills, memory.oom_kill_count()
        return Ended(code, oom_kills=None if before is None or now is None else now - before)


class Forked(Process):
    """The same, forked by `multiprocessing` from a process that has imported TensorFlow already (`warm`): seconds less
    for each job."""

    _LOST = 255
    """What `multiprocessing` says where the process that forks has died; `finetune` never ends with it."""

    def _started(self, launch: Launch, lifeline: int) -> Any:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["finetune.batch.warm"])
        environment = {**os.environ, **launch.environment}
        # daemon: if this process ends in disorder, the child is told to stop, and not waited for.
        child = context.Process(target=_job, args=(launch, environment, DupFd(lifeline)), daemon=True)
        # Libraries read how many threads they may have when they are loaded, which is before the fork.
        with _environment(environment):
            child.start()
        return child

    def wait(self) -> Ended:
        """Wait for its end."""
        self._child.join()
        return self._ended()

    def _poll(self) -> int | None:
        code: int | None = self._child.exitcode
        return code

    def _how(self, code: int | None) -> Ended:
        if code != self._LOST:
            return super()._how(code)
        try:  # it may live on, and hold its run directory
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return Ended(None, lost="the process that jobs are forked from has died")


def _job(launch: Launch, environment: dict[str, str], lifeline: Any) -> None:
    """In the child: become `python -m finetune ...`."""
    os.setsid()
    nowhere, log = os.open(os.devnull, os.O_RDONLY), os.open(launch.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for source, target in ((nowhere, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nowhere)
    os.close(log)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment, **{LIFELINE: str(lifeline.detach())})
    sys.argv = ["finetune", *launch.arguments]
    runpy.run_module("finetune", run_name="__main__", alter_sys=True)


@contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    kept = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


class Local:
    """At most `workers` processes on this machine, the cores this process may use divided among them."""

    def __init__(self, workers: int, cores: int) -> None:
        self._workers, self._cores = workers, cores
        self.threads = max(1, cores // workers)

    def slots(self) -> int:
        """The workers."""
        return self._workers

    def describe(self) -> str:
        """In words."""
        each = (
            f"{self.threads} of {self._cores} cores each"
            if self._workers > 1
            else f"on {self._cores} core{'s' if self._cores > 1 else ''}"
        )
        more = ", which is more than there are cores" if self._workers > self._cores else ""
        return f"{self._workers} at once{more}, {each}"

    def start(self, launch: Launch) -> Handle:
        """Start a child."""
        environment = {"FINETUNE_THREADS": str(self.threads), **launch.environment}
        if self._workers > 1:
            # Else the first process to see a GPU takes all of its memory.
            environment.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        # Elsewhere system libraries that TensorFlow loads do not survive a fork.
        kind = Forked if sys.platform == "linux" else Process
        return kind(Launch(launch.arguments, launch.log, environment))

    def close(self) -> None:
        """Nothing is held."""
