"""A job's process: `python -m finetune ...`, its output in a log, its life tied to whoever started it."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from finetune.batch.executors import memory

LIFELINE = "FINETUNE_LIFELINE"
"""The environment variable that names the descriptor `finetune.cli.startup.follow_lifeline` listens to."""


@dataclass(frozen=True)
class Launch:
    """A process to start: the arguments of `finetune`, the log its output is added to, variables on top of ours.

    alone: nothing else will run on this machine beside it.
    """

    arguments: tuple[str, ...]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    alone: bool = False

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
