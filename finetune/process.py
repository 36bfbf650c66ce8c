"""This process: its environment, processors and memory, silence on file descriptor 2, stop signals."""

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from finetune.errors import FinetuneError, WrongUse


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


def set_environment() -> None:
    """What the command line sets before TensorFlow and Keras are imported. Variables that are already set are kept, but
    for Keras's backend: the networks are TensorFlow's.

    oneDNN is off by default on CPUs without AVX-512, which makes convolution gradients three times slower. Log level 3
    hides the errors of TensorFlow's log: a real one also raises an exception, and the others are noise
    (node_def_util, --deterministic).
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    limit_threads()


def limit_threads() -> None:
    """Limit the libraries that are not loaded yet to FINETUNE_THREADS threads, if that is set.

    Several processes may share a machine, and TensorFlow would use every core in each of them; so would OpenMP and
    OpenBLAS, which NumPy uses. Variables that are already set are kept.
    """
    if not os.environ.get("FINETUNE_THREADS"):
        return
    try:
        threads = str(cores())
    except WrongUse:  # every command and every run reports the wrong value
        return
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, threads)


def require_tensorflow() -> None:
    """FinetuneError where Keras runs on another backend than TensorFlow, or cannot be imported."""
    wanted = os.environ.get("KERAS_BACKEND", "tensorflow")
    if "keras" in sys.modules:
        wanted = sys.modules["keras"].backend.backend()
    if wanted == "tensorflow":
        import keras  # a file in the home directory may name another one

        wanted = keras.backend.backend()
    if wanted != "tensorflow":
        raise FinetuneError(
            f"Keras runs on {wanted}, and finetune needs TensorFlow: set os.environ['KERAS_BACKEND'] = 'tensorflow' "
            "before keras is imported"
        )


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
