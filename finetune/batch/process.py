"""A job's process: `python -m finetune ...`, its output in a log, its life tied to whoever started it."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

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
            with open(launch.log, "ab") as log:
                self._child = subprocess.Popen(
                    launch.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(read,),
                    start_new_session=True,
                    env={**os.environ, **launch.environment, LIFELINE: str(read)},
                )
        except BaseException:
            os.close(self._hold)
            raise
        finally:
            os.close(read)

    @property
    def pid(self) -> int:
        """The child's process number."""
        return self._child.pid

    def poll(self) -> Ended | None:
        """How it ended, or None."""
        return None if self._child.poll() is None else self._ended()

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
        if self._child.poll() is None:
            self._child.send_signal(number)

    def _ended(self) -> Ended:
        if self._end is None:
            os.close(self._hold)
            before, now = self._oom_kills, memory.oom_kill_count()
            self._end = Ended(self._child.returncode, oom_kills=None if before is None or now is None else now - before)
        return self._end


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
        return Process(Launch(launch.arguments, launch.log, environment))

    def close(self) -> None:
        """Nothing is held."""
