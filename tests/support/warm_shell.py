"""Bash as a reader has it, in which `finetune` and `python` run in this process: TensorFlow is imported once, not for
each command. On bash's PATH lie small programs of these names that hand their words over a socket and end as told.
"""

import contextlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from finetune.cli import main

_SHIM = """\
#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    words = {{"program": {program!r}, "words": sys.argv[1:], "folder": os.getcwd()}}
    server.sendall(json.dumps(words).encode() + b"\\n")
    answer = json.loads(b"".join(iter(lambda: server.recv(65536), b"")))
sys.stdout.write(answer["stdout"])
sys.stderr.write(answer["stderr"])
sys.exit(answer["code"])
"""

_TRAP = "trap 'echo \"exit code $?: $BASH_COMMAND\" >&9' ERR; set -o pipefail\n"
"""Every command of the block that fails, but for those in `if`, `||` and the like, is written to descriptor 9."""


@dataclass(frozen=True)
class Ran:
    """One command. `added`: what was put behind its words to make it small."""

    program: str
    words: tuple[str, ...]
    added: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float


class WarmShell:
    """`change`: the words of a `finetune` command -> those it is run with, and which of these were added."""

    def __init__(
        self, tools: Path, change: Callable[[Sequence[str]], tuple[Sequence[str], Sequence[str]]] | None = None
    ) -> None:
        self._tools, self._change = tools, change or (lambda words: (words, ()))
        tools.mkdir()
        self._address = str(tools / "socket")
        for program in ("finetune", "python"):
            path = tools / program
            path.write_text(_SHIM.format(python=sys.executable, address=self._address, program=program))
            path.chmod(0o755)
        self.ran: list[Ran] = []

    def run(self, text: str, folder: Path) -> list[str]:
        """Run `text` in bash, in `folder`; every failed command, in words."""
        failed, told = os.pipe()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(self._address)
            server.listen()
            try:
                bash = subprocess.Popen(
                    ["bash", "-c", f"exec 9>&{told}\n{_TRAP}{text}"],
                    cwd=folder,
                    pass_fds=(told,),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, "PATH": f"{self._tools}:{os.environ['PATH']}"},
                )
                os.close(told)
                while bash.poll() is None:
                    if select.select([server], [], [], 0.05)[0]:
                        self._serve(server.accept()[0])
            finally:
                os.unlink(self._address)
        with open(failed) as said:
            return said.read().splitlines()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            asked = json.loads(connection.makefile().readline())
            begun = time.monotonic()
            words, added = self._change(asked["words"]) if asked["program"] == "finetune" else (asked["words"], ())
            with contextlib.chdir(asked["folder"]):
                code, stdout, stderr = (_finetune if asked["program"] == "finetune" else _python)(list(words))
            seconds = time.monotonic() - begun
            self.ran.append(Ran(asked["program"], tuple(asked["words"]), tuple(added), code, stdout, stderr, seconds))
            print(f"{seconds:5.1f} s  {asked['program']} {' '.join(words)}: exit code {code}")
            if code:
                print(stdout, stderr)
            connection.sendall(json.dumps({"code": code, "stdout": stdout, "stderr": stderr}).encode())


def _finetune(words: list[str]) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, words, prog_name="finetune")
    unexpected = result.exception is not None and not isinstance(result.exception, SystemExit)
    raised = "".join(traceback.format_exception(*result.exc_info)) if unexpected and result.exc_info else ""
    return result.exit_code, result.stdout, result.stderr + raised


def _python(words: list[str]) -> tuple[int, str, str]:
    """A script with its arguments, which sees what `python SCRIPT` sees."""
    outcome = {"code": 0, "raised": ""}

    def script() -> None:
        before = sys.argv, sys.path[:]
        sys.argv, sys.path[0:0] = list(words), [str(Path(words[0]).parent)]
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as ended:
            outcome["code"] = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            outcome["raised"] = ended.code if isinstance(ended.code, str) else ""
        except Exception:
            outcome["code"], outcome["raised"] = 1, traceback.format_exc()
        finally:
            sys.argv, sys.path[:] = before

    with CliRunner().isolation() as (stdout, stderr, *_):
        script()
        sys.stdout.flush()
        sys.stderr.flush()
        printed = stdout.getvalue().decode(), stderr.getvalue().decode()
    return int(outcome["code"]), printed[0], printed[1] + str(outcome["raised"])
