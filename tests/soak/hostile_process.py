"""A process that reads hostile files, watched: ended when it takes too long or too much, started again when it dies."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.places import ROOT

MOST_SECONDS = 10.0
"""Of processor time: what else the machine does must not decide."""
MOST_WALL_SECONDS = 300.0
MOST_MIB = 2048.0
_SCRIPT = Path(__file__).with_name("hostile_reading.py")
_FOLDERS = ("home", "cwd", "cache", "tmp", "case")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Answer:
    """outcome: `read`, `refused`, `broken`; `died`, `hung` or `swelled` where the process had to be replaced."""

    outcome: str
    words: str
    seconds: float
    mib: float

    @property
    def good(self) -> bool:
        """Whether a user got the content or one clear error, in time, in memory."""
        within = self.seconds <= MOST_SECONDS and self.mib <= MOST_MIB
        return self.outcome in ("read", "refused") and within


class Reading:
    """`ask` reads one file; the sandbox is looked over by `trespasses`."""

    def __init__(self, sandbox: Path) -> None:
        self.sandbox = sandbox
        for name in _FOLDERS:
            (sandbox / name).mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[str] | None = None
        self.started = 0

    @property
    def case(self) -> Path:
        """Where the files to read are put."""
        return self.sandbox / "case"

    def ask(self, reader: str, path: Path) -> Answer:
        """How `hostile_reading` reads `path`."""
        process = self._running()
        assert process.stdin
        assert process.stdout
        before, begun = _processor_seconds(process.pid), time.monotonic()
        process.stdin.write(json.dumps({"reader": reader, "path": str(path)}) + "\n")
        process.stdin.flush()
        while not select.select([process.stdout], [], [], 0.05)[0]:
            seconds, mib = _processor_seconds(process.pid) - before, _resident(process.pid)
            if seconds > MOST_SECONDS or time.monotonic() - begun > MOST_WALL_SECONDS:
                return self._ended("hung", seconds, mib)
            if mib > 1.5 * MOST_MIB:
                return self._ended("swelled", seconds, mib)
        line = process.stdout.readline()
        if not line:
            return self._ended("died", 0.0, 0.0)
        return Answer(**json.loads(line))

    def trespasses(self) -> list[str]:
        """What lies where nothing may, and is taken away."""
        found = [f"{name}/{path.name}" for name in ("home", "cwd", "tmp") for path in (self.sandbox / name).iterdir()]
        cache = self.sandbox / "cache"
        found += [str(path.relative_to(cache)) for path in cache.rglob("*") if path.name.startswith((".unp", ".tmp"))]
        found += [path.name for path in cache.iterdir() if path.name not in ("unpacked", "records", "mpl", "keras")]
        for name in ("home", "cwd", "tmp", "cache"):
            for path in (self.sandbox / name).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is not None:
            return self._process
        errors = (self.sandbox / "errors.txt").open("w")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", str(_SCRIPT), str(self.sandbox)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
        errors.close()
        assert process.stdout
        if not process.stdout.readline():
            raise RuntimeError(f"the reading process did not start: {(self.sandbox / 'errors.txt').read_text()}")
        self._process, self.started = process, self.started + 1
        return process

    def _ended(self, outcome: str, seconds: float, mib: float) -> Answer:
        assert self._process is not None
        if outcome != "died":
            self._process.send_signal(signal.SIGABRT)  # faulthandler then writes where it was
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=20)
        code = self._process.poll()
        self.close()
        told = (self.sandbox / "errors.txt").read_text(errors="replace").partition("Extension modules")[0][-2500:]
        return Answer(outcome, f"exit code {code}: {told}", seconds, mib)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
