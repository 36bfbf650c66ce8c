"""Import TensorFlow once, without its start-up chatter."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Read before `finetune/__init__` has set a default of its own: whoever sets it wants to see TensorFlow's messages.
_WANTS_MESSAGES = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1")


def load_tensorflow() -> None:
    """Import TensorFlow and find its devices.

    TensorFlow 2.21 writes some lines to file descriptor 2 before its log level counts (that there is no CUDA
    driver, that oneDNN is on); they would stand above every result. TF_CPP_MIN_LOG_LEVEL=0 shows them.
    """
    with _silent_descriptor():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextmanager
def _silent_descriptor() -> Iterator[None]:
    if _WANTS_MESSAGES:
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
