"""What a run ran on: versions, processors, memory."""

import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from finetune.errors import WrongUse

_PACKAGES = ("finetune-backbones", "tensorflow", "keras", "numpy", "tensorflow-hub", "pillow")


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


def describe() -> dict[str, Any]:
    """For `environment.json`. Imports TensorFlow to name its devices."""
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cores": cores(),
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0",
    }


def peak_memory_mib() -> float:
    """The most memory this process has held so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
