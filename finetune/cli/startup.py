"""Import TensorFlow without its start-up messages; end with the process that started this one."""

import logging
import os
import signal
import threading
import warnings
from contextlib import nullcontext

# Read before `set_environment` sets its own default: a user who sets this variable wants TensorFlow's messages.
_WANTS_MESSAGES = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1")


def load_tensorflow() -> None:
    """Import TensorFlow and find its devices.

    TensorFlow 2.21 writes some lines to file descriptor 2 before its log level takes effect, such as that there is no
    CUDA driver. They would precede every result, so they are hidden. TF_CPP_MIN_LOG_LEVEL=0 shows them.
    """
    from finetune.process import cores, set_environment, silent_descriptor

    set_environment()
    cores()  # rejects a FINETUNE_THREADS that TensorFlow would ignore silently
    # Pillow's warnings about a photo's EXIF or palette concern no pixel, and would interrupt a progress bar.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with nullcontext() if _WANTS_MESSAGES else silent_descriptor():
        import tensorflow as tf

        tf.config.list_physical_devices()
        if not _WANTS_MESSAGES:
            tf.get_logger().setLevel("ERROR")
            logging.getLogger("absl").setLevel(logging.ERROR)  # Keras's logger, which advises against .h5 files


def follow_lifeline() -> None:
    """Send this process SIGTERM when the process that started it has ended, however it ended.

    `finetune batch` gives its children the reading end of a pipe, with its number in FINETUNE_LIFELINE. The pipe closes
    when the batch ends, also by `kill -9`. A run then saves its state after its current step. Without the variable
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
