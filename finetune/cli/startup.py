"""Import TensorFlow once, without its start-up chatter; end with the process that started this one."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Read before `finetune/__init__` has set a default of its own: whoever sets it wants to see TensorFlow's messages.
_WANTS_MESSAGES = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1")


def load_tensorflow() -> None:
    """Import TensorFlow and find its devices.

    TensorFlow 2.21 writes some lines to file descriptor 2 before its log level counts (that there is no CUDA
    driver, that oneDNN is on); they would stand above every result. TF_CPP_MIN_LOG_LEVEL=0 shows them.
    """
    from finetune.process import cores

    cores()  # refuses a FINETUNE_THREADS that TensorFlow would pass over in silence
    # What Pillow has to say about a photo's odd EXIF or palette changes no pixel, and comes in the midst of a bar.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with _silent_descriptor():
        import tensorflow as tf

        tf.config.list_physical_devices()
        if not _WANTS_MESSAGES:
            tf.get_logger().setLevel("ERROR")
            logging.getLogger("absl").setLevel(logging.ERROR)  # Keras's, which advises against the .h5 it is asked for


def follow_lifeline() -> None:
    """Stop, as by SIGTERM, when the process that started this one has gone, however it went.

    `finetune batch` gives its children the reading end of a pipe and names it in FINETUNE_LIFELINE; the pipe closes
    when the batch ends, also by `kill -9`. A run then saves its state after the step it is at. Without the variable
    nothing happens.
    """
    name = os.environ.pop("FINETUNE_LIFELINE", "")
    if not name.isdigit():
        return
    descriptor = int(name)
    try:
        os.set_inheritable(descriptor, False)
    except OSError:
        return

    def listen() -> None:
        try:
            while os.read(descriptor, 1):
                pass
        except OSError:
            return
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True, name="lifeline").start()


@contextmanager
def _silent_descriptor() -> Iterator[None]:
    if _WANTS_MESSAGES:
        yield
        return
    from finetune.process import silent_descriptor

    with silent_descriptor():
        yield
