"""A `tf.train.Example` in the bytes of a record, read without TensorFlow: the names of its features and their values.

Reading a label touches a few bytes and not the image next to it. Formats: tensorflow/core/example/example.proto and
feature.proto; for tensors tensorflow/core/framework/tensor.proto.
"""

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Buffer = bytes | mmap.mmap
Span = tuple[int, int]
"""Begin and end of a part of a buffer, in bytes."""

_VARINT, _LENGTH_DELIMITED = 0, 2
_TYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}
"""NumPy's types by TensorFlow's numbers (tensorflow/core/framework/types.proto)."""
_MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class Keys:
    """The names of the features, by default slim's. `height` and `width` are needed only for pixels, not encoded files.

    label: whole numbers, floats that are whole, or one-hot rows. text: read where `label` is "". side: of square images
    of pixels, in px, where no feature says it; otherwise 0. depth, shape: the number of channels, and height, width and
    channels in one feature, where there are such. pixels: how they are kept if not as an encoded file or a byte each: a
    list of numbers, a serialised tensor, or the bytes of float32. unit: these are in [0, 1].
    """

    image: str = "image/encoded"
    label: str = "image/class/label"
    text: str = ""
    format: str = "image/format"
    height: str = "image/height"
    width: str = "image/width"
    side: int = 0
    depth: str = ""
    shape: str = ""
    pixels: Literal["", "list", "tensor", "float32"] = ""
    unit: bool = False


class Malformed(ValueError):
    """Bytes that are not an Example."""


class Example:
    """The Example in a part of a buffer, by default the whole buffer. Its methods raise Malformed.

    features: maps names to the span of the Feature message.
    """

    def __init__(self, buffer: Buffer, span: Span | None = None) -> None:
        self._buffer, self.features = buffer, dict[str, Span]()
        for entry in _messages(buffer, span or (0, len(buffer)), 1, 1):  # Example.features.feature, a map
            parts = dict(_fields(buffer, entry))  # key and value
            if 1 in parts and 2 in parts:
                begin, end = parts[1]
                self.features[bytes(buffer[begin:end]).decode("utf-8", "replace")] = parts[2]

    def first_bytes(self, key: str) -> bytes:
        """The first value of the bytes feature `key`; empty if there is none."""
        values = _messages(self._buffer, self.features.get(key, (0, 0)), 1, 1)  # Feature.bytes_list.value
        begin, end = next(values, (0, 0))
        return self._buffer[begin:end]

    def kind(self, key: str) -> str:
        """The type of the feature `key`: bytes, float or int64; empty if it has no value."""
        found = next(_fields(self._buffer, self.features.get(key, (0, 0))), (0, (0, 0)))
        return {1: "bytes", 2: "float", 3: "int64"}.get(found[0], "")

    def numbers(self, key: str) -> Iterator[float]:
        """The values of the int64 or float feature `key`, packed or not; none if it is of another type."""
        for kind, (at, end) in _fields(self._buffer, self.features.get(key, (0, 0))):  # Feature.float_list, int64_list
            while at < end and kind in (2, 3):
                tag, at = _varint(self._buffer, at, end)
                last = at + 1  # a single value
                if tag == (1 << 3 | _LENGTH_DELIMITED):
                    length, at = _varint(self._buffer, at, end)
                    last = at + length
                if last > end:
                    raise Malformed("a list of numbers is longer than the message around it")
                while at < last:
                    if kind == 3:
                        value, at = _varint(self._buffer, at, end)
                        yield value - (1 << 64) if value >> 63 else value
                    elif at + 4 <= end:
                        yield struct.unpack("<f", self._buffer[at : at + 4])[0]
                        at += 4
                    else:
                        raise Malformed("a float is cut off")

    def values(self, key: str) -> np.ndarray:
        """All values of the int64 or float feature `key` at once: int64 or float32 `[n]`."""
        parts = [
            np.frombuffer(self._buffer[begin:end], "<f4") if kind == 2 else _varints(self._buffer[begin:end])
            for kind, field in _fields(self._buffer, self.features.get(key, (0, 0)))
            if kind in (2, 3)
            for begin, end in _messages(self._buffer, field, 1)
            if kind == 3 or not (end - begin) % 4
        ]
        return np.concatenate(parts) if parts else np.array(list(self.numbers(key)))

    def content(self, key: str) -> bytes:
        """The whole feature `key` as it is stored."""
        begin, end = self.features.get(key, (0, 0))
        return self._buffer[begin:end]

    def first_int(self, key: str) -> int | None:
        """The first value of the int64 feature `key`; None if there is none."""
        value = next(self.numbers(key), None) if self.kind(key) == "int64" else None
        return None if value is None else int(value)


def tensor_of(content: bytes) -> np.ndarray | None:
    """The tensor that `tf.io.serialize_tensor` wrote as `content`; None where it is none of numbers."""
    try:
        found = list(_parts(content, (0, len(content))))
        dtype = next((_TYPES.get(value[0]) for number, kind, value in found if (number, kind) == (1, _VARINT)), None)
        spans = {number: value for number, kind, value in found if kind == _LENGTH_DELIMITED}
        sizes = [
            next((value[0] for number, kind, value in _parts(content, one) if (number, kind) == (1, _VARINT)), 0)
            for one in _messages(content, spans.get(2, (0, 0)), 2)  # TensorProto.tensor_shape.dim
        ]
    except Malformed:
        return None
    begin, end = spans.get(4, (0, 0))  # TensorProto.tensor_content
    fits = dtype is not None and 0 < len(sizes) <= _MOST_DIMENSIONS and all(sizes)
    if not fits or math.prod(sizes) * np.dtype(dtype).itemsize != end - begin:
        return None
    return np.frombuffer(content[begin:end], dtype).reshape(sizes)


def _varints(content: bytes) -> np.ndarray:
    """A packed list of whole numbers: int64 `[n]`."""
    octets = np.frombuffer(content, np.uint8)
    last = np.flatnonzero(octets < 0x80)
    if not octets.size or not last.size or last[-1] != octets.size - 1:
        if octets.size:
            raise Malformed("a number without an end")
        return np.zeros(0, np.int64)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 9:
        raise Malformed("a number without an end")
    place = np.arange(octets.size) - np.repeat(first, last - first + 1)
    parts = (octets & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(parts, first).view(np.int64)


def _messages(buffer: Buffer, span: Span, number: int, *inner: int) -> Iterator[Span]:
    """The fields `number` of the message at `span`, or the fields `inner` within them, a number a level."""
    for found, field in _fields(buffer, span):
        if found == number:
            yield from _messages(buffer, field, *inner) if inner else (field,)


def _fields(buffer: Buffer, span: Span) -> Iterator[tuple[int, Span]]:
    """The length-delimited fields of the message at `span`, each with its number; other fields are skipped."""
    return ((number, part) for number, kind, part in _parts(buffer, span) if kind == _LENGTH_DELIMITED)


def _parts(buffer: Buffer, span: Span) -> Iterator[tuple[int, int, Span]]:
    """The fields of the message at `span`: (number, type on the wire, its bytes; of a number, its value twice)."""
    at, end = span
    while at < end:
        tag, at = _varint(buffer, at, end)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(buffer, at, end)
            if at + length > end:
                raise Malformed("a field is longer than the message around it")
            yield tag >> 3, kind, (at, at + length)
            at += length
        elif kind == _VARINT:
            value, at = _varint(buffer, at, end)
            yield tag >> 3, kind, (value, value)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise Malformed(f"field of type {kind}")


def _varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    """(value, position after it)."""
    value = shift = 0
    while at < end and shift < 70:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise Malformed("a number without an end")
