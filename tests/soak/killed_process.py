"""Commands of `finetune` in processes that are killed (SIGKILL) or get an error of the system at a chosen moment.

One process imports everything once and forks a child for each command, which takes 10 ms in place of 6 s. A moment is
the n-th time the child is about to open a file for writing, rename, remove or make one below the watched folders
(`sys.addaudithook`), and so many milliseconds after it: that reaches each single file, before it is there, in the
midst of it, and before it gets its name. On a disk of its own, a tmpfs in a mount namespace, the process also fills up
what C++ writes, and mounts it read-only.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.warm_process import WarmProcess

_PROGRAM = """
import json, os, signal, subprocess, sys, threading, time
from finetune.cli import main
from finetune.cli.startup import load_tensorflow

load_tensorflow()
import finetune.inference.export, finetune.training.feature_cache.preparing, finetune.training.start
import finetune.training.observers
import finetune.cli.display_training, finetune.diagnosis.doctor
from checkpoints.download.resumable import fetch
from finetune.training.loop import train as loop

# A state after every step and every epoch: many more of them to be killed in.
loop._SAVING_SHARE = 0
loop.train.__kwdefaults__["save_seconds"] = 0.0
WRITING = os.O_WRONLY | os.O_RDWR
KINDS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")

def watch(folders, kill, fail, told):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & WRITING:
                return
        elif event not in KINDS:
            return
        name = arguments[0]
        if isinstance(name, bytes):
            name = os.fsdecode(name)
        if event not in ("open", "os.truncate") and arguments[-1] >= 0:  # relative to an open folder, as of rmtree
            name = os.path.join(os.readlink(f"/proc/self/fd/{arguments[-1]}"), name)
        if not isinstance(name, (str, os.PathLike)) or not os.path.abspath(name).startswith(tuple(folders)):
            return
        seen += 1
        if fail is not None and seen >= fail[0] and event in fail[2]:
            os.write(told, f"{event} {os.path.abspath(name)}\\n".encode())
            raise OSError(fail[1], os.strerror(fail[1]), name)
        if fail is not None:
            return
        if kill is None:
            os.write(told, f"{event} {os.path.abspath(name)}\\n".encode())
        elif seen == kill[0]:
            os.write(told, f"{event} {os.path.abspath(name)}\\n".encode())
            def end():
                time.sleep(kill[1] / 1000)
                os.kill(os.getpid(), signal.SIGKILL)
            if kill[1]:
                threading.Thread(target=end, daemon=True).start()
            else:
                end()
    sys.addaudithook(hook)

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
print(json.dumps("ready"), file=answers, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "shell" in asked:
        done = subprocess.run(asked["shell"], shell=True, capture_output=True, text=True)
        print(json.dumps({"code": done.returncode, "words": done.stderr}), file=answers, flush=True)
        continue
    reading, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.environ.update(asked["environment"])
        out = os.open(asked["output"], os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(asked["cwd"])
        watch(asked["folders"], asked["kill"], asked["fail"], told)
        code = 0
        try:
            exec(asked["first"], {})
            if asked["fetch"]:
                fetch(asked["fetch"], first_wait=0.01)
            else:
                main.main(asked["arguments"])
        except SystemExit as ended:
            code = ended.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    os.close(told)
    with os.fdopen(reading) as words:
        events = words.read().splitlines()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"code": code, "events": events}), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a child ended: -9 where it was killed; what it was about to do then, or without a kill all it did."""

    code: int
    events: list[str]
    output: str

    @property
    def killed(self) -> bool:
        return self.code == -9


WRITES = ("open", "os.rename", "os.mkdir", "os.truncate")
"""Events that a full disk refuses."""
CHANGES = (*WRITES, "os.remove", "os.rmdir")
"""Events that a disk mounted read-only refuses."""


def namespace() -> list[str] | None:
    """What starts a process that may mount, as root or in a user namespace; None where the system has neither."""
    for words in (["unshare", "-m"], ["unshare", "-Urm"]):
        trial = [*words, "sh", "-c", "mount -t tmpfs -o size=1m none /mnt && mount -o remount,size=2m /mnt"]
        if shutil.which("unshare") and subprocess.run(trial, capture_output=True).returncode == 0:
            return words
    return None


class Killable:
    """Runs commands in `folder`, where all they write lies; `home` below it is their cache.

    With `own_disk` (what `namespace` gives) there is a tmpfs on `folder`, which `disk` fills up or protects; other
    processes see it through `seen`.
    """

    def __init__(self, folder: Path, *, own_disk: list[str] | None = None) -> None:
        self.folder, self._output = folder, folder.with_name(folder.name + ".output")
        self.home = folder / "home"
        self._process: Any
        if own_disk is None:
            self._process = WarmProcess(_PROGRAM)
        else:
            self._process = subprocess.Popen(
                [*own_disk, sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                # No thread may run when it forks, or the child inherits its locks.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        assert self._answer() == "ready"
        if own_disk is not None:
            self._shell(f"mount -t tmpfs -o size=64m none {folder}")

    def disk(self, options: str) -> None:
        """Change the options of the own disk: `size=800k`, `ro`, `rw`."""
        self._shell(f"mount -o remount,{options} {self.folder}")

    def _shell(self, words: str) -> None:
        assert self._process.stdin is not None
        print(json.dumps({"shell": words}), file=self._process.stdin, flush=True)
        answer = self._answer()
        assert answer["code"] == 0, answer

    def seen(self, path: Path) -> Path:
        """`path` as other processes find it."""
        return Path(f"/proc/{self._process.pid}/root{path}")

    def __call__(
        self,
        line: str = "",
        *,
        fetch: str | None = None,
        kill: tuple[int, float] | None = None,
        fail: tuple[int, int, tuple[str, ...]] | None = None,
        first: str = "",
        cwd: Path | None = None,
    ) -> Ended:
        """`finetune LINE` in `cwd`; `kill` is (which event, ms after it).

        fail: (from which event on, errno, which kinds of events): these events then raise, and are what was told.
        first: Python code that the child runs before.
        """
        asked: dict[str, Any] = {
            "arguments": line.split(),
            "fetch": fetch,
            "kill": kill,
            "fail": fail,
            "first": first,
            "folders": [str(self.folder)],
            "cwd": str(cwd or self.folder),
            "output": str(self._output),
            "environment": {"FINETUNE_HOME": str(self.home)},
        }
        assert self._process.stdin is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = self._answer()
        return Ended(answer["code"], answer["events"], self._output.read_text(errors="replace"))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has died"
        return json.loads(line)
