"""What a run ran on: versions, processors, memory."""

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from finetune.errors import WrongUse


def cores() -> int:
    """Processors this process may use: FINETUNE_THREADS where it is set, else what the system lets it have (a
    cluster's queue may allow fewer than the machine has). WrongUse where FINETUNE_THREADS is no such number."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("FINETUNE_THREADS")
    if not wanted:
        return allowed
    if not wanted.isdigit() or int(wanted) < 1:
        raise WrongUse(f"FINETUNE_THREADS is {wanted!r}: expected a whole number of threads, or no such variable")
    return min(allowed, int(wanted))


@contextmanager
def silent_descriptor() -> Iterator[None]:
    """Inside, what native code writes to file descriptor 2 goes nowhere; Python's exceptions say what goes wrong."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def peak_memory_mib() -> float:
    """The most memory this process has held so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1))


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C or SIGTERM is only remembered (call what is given to ask); the second one interrupts."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, handle)
        except ValueError:  # not the main thread: whoever runs us there handles signals
            break
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
