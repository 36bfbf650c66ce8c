"""This process: its processors and memory, silence on file descriptor 2, stop signals."""

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from finetune.errors import WrongUse


def cores() -> int:
    """The number of processors this process may use: at most FINETUNE_THREADS, if that is set.

    A cluster's queue may allow fewer processors than the machine has. Raises WrongUse if FINETUNE_THREADS is not a
    whole number from 1.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("FINETUNE_THREADS")
    if not wanted:
        return allowed
    if not wanted.isdigit() or int(wanted) < 1:
        raise WrongUse(f"FINETUNE_THREADS is {wanted!r}: expected a whole number of threads, or no such variable")
    return min(allowed, int(wanted))


@contextmanager
def silent_descriptor() -> Iterator[None]:
    """Inside, text that native code writes to file descriptor 2 is dropped. Python's exceptions report what fails."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def peak_memory_mib() -> float:
    """The peak resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1))


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C or SIGTERM is only recorded, and the second one interrupts.

    The function that this context gives returns whether a signal has been received.
    """
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, handle)
        except ValueError:  # not the main thread: the caller handles signals
            break
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
