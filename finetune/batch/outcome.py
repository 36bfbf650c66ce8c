"""Why a job's process ended: judged from its exit code, its log, and the kernel's count of out-of-memory kills."""

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from finetune.batch.executors.job_process import Ended

_NO_MEMORY = re.compile(
    r"out of memory|std::bad_alloc|OOM when allocating|OutOfMemory|Resource_?Exhausted|MemoryError"
    r"|Cannot allocate memory|CUDA_ERROR_OUT_OF_MEMORY",
    re.IGNORECASE,
)
_TAIL = 64 * 1024


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
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
