"""A job's process: `python -m finetune ...`, its output in a log, and why it ended.

It stops when its parent process has gone. Why it ended is judged from its exit code, its log, and the kernel's count of
out-of-memory kills.
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

LIFELINE = "FINETUNE_LIFELINE"
"""The environment variable with the file descriptor that `finetune.cli.startup.follow_lifeline` listens to."""
_NO_MEMORY = re.compile(
    r"out of memory|std::bad_alloc|OOM when allocating|OutOfMemory|Resource_?Exhausted|MemoryError"
    r"|Cannot allocate memory|CUDA_ERROR_OUT_OF_MEMORY",
    re.IGNORECASE,
)
_TAIL = 64 * 1024


@dataclass(frozen=True)
class Launch:
    """A process to start: the arguments of `finetune`, its log, and variables added to this process's environment.

    alone: nothing else will run on this machine at the same time.
    folder: where the relative paths in the arguments start; a process of Ray has another working directory.
    """

    arguments: tuple[str, ...]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    alone: bool = False
    folder: str = field(default_factory=os.getcwd)

    @property
    def command(self) -> list[str]:
        """The command line. It names this interpreter, so the job runs this installation."""
        return [sys.executable, "-m", "finetune", *self.arguments]


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    exit_code: negative for a signal; None if it could not be observed, and `lost` says why.
    oom_kills: how many processes the kernel of its machine killed because memory ran out while it ran; None if the
        kernel does not report it.
    """

    exit_code: int | None
    lost: str | None = None
    oom_kills: int | None = None


class Handle(Protocol):
    """A job's process, on whichever machine."""

    def poll(self) -> Ended | None:
        """How it ended; None while it lives or waits for a free slot."""

    def end(self, *, kill: bool) -> None:
        """Ask it to save its state and end, or `kill` it now."""


class Executor(Protocol):
    """Where jobs run."""

    def slots(self) -> int:
        """How many jobs may run at once, now."""

    def describe(self) -> str:
        """For the first line of the output: where jobs run, how many at once, with how many cores each."""

    def start(self, launch: Launch) -> Handle:
        """Start a process."""

    def close(self) -> None:
        """Release what the executor holds; the processes have ended."""


class Process:
    """A child of this process.

    It gets a session of its own, because Ctrl-C in a terminal reaches every process of the session: this process
    decides which jobs are stopped, and sends the signal once. It also reads a pipe whose other end this process
    holds. When this process ends, however it ends, the child saves its state and ends too (`follow_lifeline`).
    """

    def __init__(self, launch: Launch) -> None:
        self._end: Ended | None = None
        self._oom_kills = oom_kill_count()
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
                cwd=launch.folder,
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
        """How it ended; None while it lives."""
        return None if self._poll() is None else self._ended()

    def wait(self) -> Ended:
        """Wait for its end."""
        self._child.wait()
        return self._ended()

    def end(self, *, kill: bool) -> None:
        """Send SIGTERM: the job saves its state after its current step. Or send SIGKILL."""
        if self._poll() is None:
            os.kill(self.pid, signal.SIGKILL if kill else signal.SIGTERM)

    def _poll(self) -> int | None:
        code: int | None = self._child.poll()
        return code

    def _ended(self) -> Ended:
        if self._end is None:
            os.close(self._hold)
            self._end = self._describe_end(self._poll())
        return self._end

    def _describe_end(self, code: int | None) -> Ended:
        before, now = self._oom_kills, oom_kill_count()
        return Ended(code, oom_kills=None if before is None or now is None else now - before)


def oom_kill_count() -> int | None:
    """How many processes the kernel has killed so far because memory ran out; None if it does not report it.

    It counts the memory group of this process if there is one (cgroup 2, then 1), else the whole machine.
    """
    for path in (*_group_counters(), Path("/proc/vmstat")):
        with suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE):
                return int(found[1])
    return None


def _group_counters() -> list[Path]:
    """The files in which the kernel counts for this process's memory groups."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        inside = group.lstrip("/")
        if not controllers:
            found.append(Path("/sys/fs/cgroup") / inside / "memory.events")
        elif "memory" in controllers.split(","):
            found.append(Path("/sys/fs/cgroup/memory") / inside / "memory.oom_control")
    return found


@dataclass(frozen=True)
class Outcome:
    """`kind` is done, failed, out-of-memory, killed, lost or interrupted; `error` is one line, None for done."""

    kind: str
    error: str | None


def judge(ended: Ended, log: Path, start: int, *, done: bool) -> Outcome:
    """The outcome of an attempt.

    `start` is the byte of the log at which the attempt began, `done` whether its run has a result.
    A SIGKILL counts as out of memory only if the kernel reports it. A job that was killed by hand, or because its
    machine was taken away, must go on unchanged: another batch size would give another result.
    """
    code, text = ended.exit_code, _tail(log, start)
    if code is None:
        return Outcome("out-of-memory" if _NO_MEMORY.search(ended.lost or "") else "lost", ended.lost)
    if code == 0 and done:
        return Outcome("done", None)
    if code == -signal.SIGKILL:
        if ended.oom_kills:
            return Outcome("out-of-memory", "out of memory: the kernel killed it (SIGKILL)")
        return Outcome("killed", "killed (SIGKILL)" + ("" if ended.oom_kills == 0 else "; the memory may have run out"))
    if code != 130 and _NO_MEMORY.search(text):
        return Outcome("out-of-memory", _last_error(text) or "out of memory")
    if code in (130, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
        return Outcome("interrupted", _last_error(text) or "stopped before its first step")
    if code < 0:
        return Outcome("failed", f"ended by {_signal_name(-code)}" + _added(text))
    return Outcome("failed", _last_error(text) or f"exit code {code}" + _added(text))


def _tail(log: Path, start: int) -> str:
    """The last _TAIL bytes of the log, from byte `start` on."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _last_error(text: str) -> str | None:
    """The last error message that finetune printed, or None."""
    found = re.findall(r"^Error: (.*)$", text, re.MULTILINE)
    return str(found[-1]).strip()[:500] if found else None


def _added(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""


def _signal_name(number: int) -> str:
    return {one.value: one.name for one in signal.Signals}.get(number, f"signal {number}")
