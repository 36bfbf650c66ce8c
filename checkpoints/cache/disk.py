"""What TensorFlow says when the system refuses it a file, as the error Python would raise."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.ESTALE),
)


def refusal(words: str) -> int | None:
    """The errno whose text is in the message of a TensorFlow error; None where it is about something else.

    The class of such an error does not tell: a full disk is a `ResourceExhaustedError`, as is want of memory.
    """
    return next((number for number in _REFUSALS if os.strerror(number) in words), None)


@contextmanager
def written_by_tensorflow(path: Path) -> Iterator[None]:
    """OSError naming `path` where TensorFlow, writing it, is refused a file by the system."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        number = refusal(str(error.message))
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None
