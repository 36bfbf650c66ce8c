"""Processes that have imported TensorFlow already: forked from one that has, in a tenth of a second instead of five.

For tests that need a process of its own (to be killed, to be deterministic, to meet another one), and not a new
interpreter: what a program does while it is imported, such as reading an environment variable, has been done.
As in `finetune.batch.executors.warm`, the process that forks has run no operation and looked for no device.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.support.places import ROOT

_SERVER = """
import gc, json, os, runpy, socket, sys, traceback
from finetune.process import silent_descriptor
with silent_descriptor():
    import finetune.cli.display_training, finetune.training.start, finetune.diagnosis.doctor, finetune.inference.export
    import tensorflow as tf, keras
if not {optimised}:
    tf.config.optimizer.set_experimental_options({{"disable_meta_optimizer": True}})
gc.collect()
gc.freeze()

def child(asked, streams):
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    # Made for these files: whether one can seek, and is a terminal, is found out when a stream is made.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", 1, closefd=False, errors="backslashreplace")
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    code = 0
    try:
        if asked["module"]:
            sys.argv = [asked["module"], *asked["arguments"]]
            runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
        else:
            sys.argv = ["-c", *asked["arguments"]]
            exec(compile(asked["program"], "<string>", "exec"), {{"__name__": "__main__"}})
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
        code = 0 if code is None else code if isinstance(code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

with socket.socket(socket.AF_UNIX) as server:
    server.bind({address!r})
    server.listen()
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        text, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 4)
        if not text:
            connection.close()
            continue
        *streams, ended = descriptors
        if os.fork() == 0:  # waits for the child, so that this one need not
            server.close()
            pid = os.fork()
            if pid == 0:
                connection.close()
                os.close(ended)
                child(json.loads(text), streams)
            for stream in streams:
                os.close(stream)
            connection.sendall(str(pid).encode())
            connection.close()
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.write(ended, str(code).encode())
            os._exit(0)
        connection.close()
        for descriptor in descriptors:
            os.close(descriptor)
        while True:  # those that waited, and are done
            try:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    break
            except ChildProcessError:
                break
"""


class WarmProcess:
    """A forked process, with the part of `subprocess.Popen`'s interface that tests use; all its streams are text."""

    def __init__(
        self,
        program: str = "",
        *arguments: str,
        module: str = "",
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        stderr: int | None = subprocess.PIPE,
    ) -> None:
        """Run `program`, or `python -m module`, with these arguments. `environment` is added to this process's own.

        stderr: PIPE, or STDOUT where both are one stream.
        """
        (stdin, self._in), (self._out, stdout), (self._end, ended) = os.pipe(), os.pipe(), os.pipe()
        error = os.pipe() if stderr == subprocess.PIPE else None
        asked = {
            "program": program,
            "module": module,
            "arguments": [str(word) for word in arguments],
            "cwd": str(cwd or os.getcwd()),
            "environment": {**os.environ, **(environment or {})},
        }
        given = [stdin, stdout, error[1] if error else stdout, ended]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(_server())
            socket.send_fds(connection, [json.dumps(asked).encode()], given)
            self.pid = int(connection.recv(64))
        for descriptor in {*given}:
            os.close(descriptor)
        self.stdin: IO[str] = os.fdopen(self._in, "w")
        self.stdout: IO[str] = os.fdopen(self._out)
        self.stderr: IO[str] | None = os.fdopen(error[0]) if error else None
        self.returncode: int | None = None

    def __enter__(self) -> "WarmProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        self.wait()
        self.close()

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code; None where it has not ended after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                return None
            self.returncode = int(os.read(self._end, 16))
            os.close(self._end)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All it writes until it ends: (stdout, stderr)."""
        self.stdin.close()
        with ThreadPoolExecutor(2) as pool:
            texts = [pool.submit(stream.read) if stream else None for stream in (self.stdout, self.stderr)]
            try:
                found = [text.result(timeout) if text else "" for text in texts]
            except TimeoutError:
                self.kill()
                raise
        self.wait()
        self.close()
        return found[0], found[1]

    def close(self) -> None:
        """Close the streams."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@cache
def _server() -> str:
    """The address of this worker's process that forks; started when it is first asked for."""
    folder = tempfile.TemporaryDirectory(prefix="warm-")
    address = f"{folder.name}/socket"
    program = _SERVER.format(address=address, optimised=_optimised())
    process: Any = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder.name,
        # OpenBLAS's threads would not survive the fork.
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )

    def end() -> None:
        process.kill()
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    assert process.stdout.readline() == "ready\n", "the process that forks did not start"
    return address


def _optimised() -> bool:
    """Whether TensorFlow optimises graphs in the tests of this process."""
    config = sys.modules.get("tensorflow.python.framework.config")
    return config is None or not config.get_optimizer_experimental_options().get("disable_meta_optimizer", False)
