"""Read the pickles CIFAR is published in, and NumPy's arrays of Python objects, without running code that a pickle may
ask to run.

Unpickling calls whatever functions the file names. Here it can call only two functions of this module: one keeps what
it is given, the other encodes text. Any other name is rejected. NumPy's own functions are not called before the whole
file has been read.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import FinetuneError

LARGEST = 256 * 2**20
"""Largest file in bytes. A CIFAR batch has 31 million; the limit keeps a wrong file from filling the memory."""


def read_pickle(content: bytes, name: str, advice: str = "delete it and download or unpack it again") -> dict[str, Any]:
    """The dict pickled in `content`. Its values are numpy arrays, lists, tuples, bytes, str, int and float.

    Text of Python 2 is bytes, except in the keys. Arrays hold whole numbers or floats, are read-only, and must lie
    directly in the dict, in any of NumPy's pickle formats. `name` is the file's name in messages, `advice` the way on.
    Raises FinetuneError if the pickle asks for anything else, or is damaged.
    """
    try:
        values = _loaded(content, name, _ALLOWED)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, not a dict")
        return {_text(key): _array(one) if isinstance(one, _Made) else one for key, one in values.items()}
    except FinetuneError:
        raise
    # A damaged pickle is a random program and may end in any exception.
    except Exception as error:
        raise FinetuneError(
            f"{name} is damaged: it cannot be unpickled ({type(error).__name__}: {error}); {advice}"
        ) from None


def read_objects(content: bytes, name: str) -> np.ndarray:
    """The text or numbers, or arrays of one shape, that NumPy has pickled as an array of Python objects.

    The result is an array of text, of numbers, or of the stacked arrays. `name` is the array's name in messages. Raises
    FinetuneError if the pickle asks for anything else, or is damaged.
    """
    advice = "write it as an array of numbers or of fixed-length text"
    try:
        made = _loaded(content, name, _ALLOWED | _SCALAR)
        _, shape, _, fortran, values = made.state
        values = [_plain(one) for one in values]
        kinds = {
            "text" if isinstance(one, str) else "numbers" if isinstance(one, int | float) else type(one).__name__
            for one in values
        }
        if len(kinds) != 1 or not kinds <= {"text", "numbers", "ndarray"}:
            raise FinetuneError(f"{name} holds Python objects ({', '.join(sorted(kinds)) or 'none'}): {advice}")
        if kinds == {"ndarray"} and len({one.shape for one in values}) > 1:
            raise FinetuneError(
                f"{name} holds images of different sizes, such as {list(values[0].shape)}: expected one array; resize "
                "them, or save each as a PNG in the folder of its class, which --data takes"
            )
        most = max(
            one.nbytes if isinstance(one, np.ndarray) else 4 * len(one) if kinds == {"text"} else 8 for one in values
        )
        if most * len(values) > LARGEST:
            raise ValueError(f"{len(values)} values of {most} bytes")
        array = np.stack(values) if kinds == {"ndarray"} else np.array(values)
        if array.dtype == object:
            raise ValueError("numbers beyond 64 bits")
        return array if kinds == {"ndarray"} else array.reshape(shape, order="F" if fortran else "C")
    except FinetuneError:
        raise
    except Exception as error:  # as above
        raise FinetuneError(f"{name} is damaged ({type(error).__name__}: {error}): {advice}") from None


def _plain(one: Any) -> Any:
    """Of what a pickle holds: an array or a scalar of NumPy as such, and text of bytes."""
    if isinstance(one, _Made):
        if one.state or len(one.arguments) > 2:
            return _array(one)
        dtype, content = one.arguments
        code = _text(dtype.arguments[0])
        if code[0] not in "US":
            return _array(_Made(content, dtype, (), "C")).item()
        one = content if code[0] == "S" else content.decode("utf-32-be" if dtype.state[1] == ">" else "utf-32-le")
    return one.decode("utf-8", "replace") if isinstance(one, bytes) else one


def _loaded(content: bytes, name: str, allowed: Mapping[tuple[str, str], Any]) -> Any:
    _check_program(content)
    return _Restricted(io.BytesIO(content), name, allowed).load()


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


class _Made:
    """Stands for an array or a dtype while unpickling: the arguments it is made from, and the state that follows."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _made(*arguments: Any) -> _Made:
    return _Made(*arguments)


def _array(made: _Made) -> np.ndarray:
    """The array, if it holds whole numbers or floats.

    NumPy pickles an array by `_reconstruct` and a state up to pickle protocol 4, and whole by `_frombuffer` in protocol
    5. A dtype is a code, such as 'u1', and a state with its byte order.
    """
    if made.state:
        _, shape, dtype, fortran, content = made.state
    else:
        content, dtype, shape, order = made.arguments
        fortran = order == "F"
    code, byte_order = _text(dtype.arguments[0]), _text(dtype.state[1]) if dtype.state else "|"
    if len(code) != 2 or code[0] not in "biuf" or byte_order not in "|<>=":
        raise ValueError(f"dtype {byte_order}{code} is not one of numbers")
    kind = np.dtype(byte_order + code)
    if math.prod(shape) * kind.itemsize != len(content):
        raise ValueError(f"an array of shape {shape} has {len(content)} bytes")
    array: np.ndarray = np.frombuffer(bytes(content), kind).reshape(shape, order="F" if fortran else "C")
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """As `_codecs.encode` in pickles of Python 3, where bytes are written as latin-1 text."""
    if type(text) is not str or encoding != "latin1":
        raise ValueError("only latin-1 text is encoded")
    return text.encode("latin1")


# Functions only: a pickle could set attributes of a class, which would outlive the reading.
_ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "dtype"): _made,
    ("numpy", "ndarray"): "the class, which is passed to _reconstruct and never called",
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _made for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _made for core in ("core", "_core")},
}


_SCALAR = {(f"numpy.{core}.multiarray", "scalar"): _made for core in ("core", "_core")}


class _Restricted(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, name: str, allowed: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(file, encoding="bytes")
        self._file_name, self._allowed = name, allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise FinetuneError(
                f"refused: {self._file_name} asks to run {module}.{name} while being unpickled; expected arrays, "
                "lists and text only. Delete it and fetch the file from its origin"
            )
        return self._allowed[module, name]


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
