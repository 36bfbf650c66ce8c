"""Read the pickles CIFAR is published in, without running code that a pickle may ask to run.

Unpickling calls whatever functions the file names. Here it can call only the four stand-ins below, which build arrays
from bytes; any other name is rejected. NumPy's own functions are not called before the whole file has been read.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import FinetuneError

LARGEST = 256 * 2**20
"""Largest file in bytes. A CIFAR batch has 31 million; the limit keeps a wrong file from filling the memory."""


def read_pickle(content: bytes, name: str) -> dict[str, Any]:
    """The dict pickled in `content`. Its values are numpy arrays, lists, tuples, bytes, str, int and float.

    Text of Python 2 is bytes, except in the keys. Arrays hold whole numbers or floats, are read-only, and must lie
    directly in the dict, in any of NumPy's pickle formats. `name` is the file's name in messages. Raises FinetuneError
    if the pickle asks for anything else, or is damaged.
    """
    try:
        _check_program(content)
        values = _Restricted(io.BytesIO(content), name).load()
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, not a dict")
        return {_text(key): one.numpy() if isinstance(one, _Array) else one for key, one in values.items()}
    except FinetuneError:
        raise
    # A damaged pickle is a random program and may end in any exception.
    except Exception as error:
        raise FinetuneError(
            f"{name} is damaged: it cannot be unpickled ({type(error).__name__}: {error}); "
            "delete it and download or unpack it again"
        ) from None


def _check_program(content: bytes) -> None:
    """Raise ValueError if the pickle would make the unpickler allocate memory that its content does not account for.

    The unpickler allocates a table as long as the largest number under which a value is stored (8 bytes per entry, up
    to 2**32 in one step), and the bytes of a text before it has read them.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > len(content):
            raise ValueError(f"it would store a value under the number {argument}")
        if opcode.name == "STOP":
            return


def read_bytes(path: Path) -> bytes:
    """The file's content. Raises FinetuneError if it is larger than any file of CIFAR, or cannot be read."""
    try:
        check_size(path.stat().st_size, str(path))
        return path.read_bytes()
    except OSError as error:
        raise FinetuneError(f"{path} cannot be read ({error.strerror}): check the file and its permissions") from None


def check_size(size: int, name: str) -> None:
    """Raise FinetuneError if `size` bytes are more than any file of CIFAR has."""
    if size > LARGEST:
        raise FinetuneError(
            f"{name} has {size / 2**20:.0f} MiB: expected at most {LARGEST // 2**20}; it is not a file of CIFAR, "
            "check --data-dir"
        )


class _DType:
    """Stands for a numpy dtype while unpickling: its code, such as 'u1', and its byte order."""

    def __init__(self, code: Any) -> None:
        self._code, self._order = _text(code), "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = _text(state[1])

    def numpy(self) -> np.dtype[Any]:
        if len(self._code) != 2 or self._code[0] not in "biuf" or self._order not in "|<>=":
            raise ValueError(f"dtype {self._order}{self._code} is not one of numbers")
        return np.dtype(self._order + self._code)


class _Array:
    """Stands for a numpy array while unpickling: shape, dtype, order and bytes."""

    def __init__(self) -> None:
        self._state: tuple[Any, _DType, bool, Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self._state = (shape, dtype, bool(fortran), content)

    def numpy(self) -> np.ndarray:
        if self._state is None:
            raise ValueError("an array without content")
        shape, dtype, fortran, content = self._state
        kind = dtype.numpy()
        if math.prod(shape) * kind.itemsize != len(content):
            raise ValueError(f"an array of shape {shape} has {len(content)} bytes")
        array: np.ndarray = np.frombuffer(bytes(content), kind).reshape(shape, order="F" if fortran else "C")
        return array


def _dtype(code: Any, *_: Any) -> _DType:
    return _DType(code)


def _reconstruct(*_: Any) -> _Array:
    """An array whose state follows. This is NumPy's format up to pickle protocol 4."""
    return _Array()


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """A whole array. This is NumPy's format for pickle protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """As `_codecs.encode` in pickles of Python 3, where bytes are written as latin-1 text."""
    if type(text) is not str or encoding != "latin1":
        raise ValueError("only latin-1 text is encoded")
    return text.encode("latin1")


# Functions only: a pickle could set attributes of a class, which would outlive the reading.
_ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): "the class, which is passed to _reconstruct and never called",
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _Restricted(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, name: str) -> None:
        super().__init__(file, encoding="bytes")
        self._file_name = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise FinetuneError(
                f"refused: {self._file_name} asks to run {module}.{name} while being unpickled; expected arrays, "
                "lists and text only, as in the official CIFAR files. Delete it and fetch the file from its origin"
            )
        return _ALLOWED[module, name]


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
