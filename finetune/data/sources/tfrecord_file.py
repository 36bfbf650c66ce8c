"""TFRecord files of `tf.train.Example`s at random access: the position of each record, and its features.

TensorFlow reads these files from front to back and copies every record to parse it. This module maps a file into
memory and steps through it. Reading a label touches a few bytes and not the image next to it, so 130 GB of ImageNet
are indexed without being read.

Formats: tensorflow/core/lib/io/record_writer.h; tensorflow/core/example/{example,feature}.proto.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import FinetuneError

Buffer = bytes | mmap.mmap
Span = tuple[int, int]
"""Begin and end of a part of a buffer, in bytes."""

_HEADER, _FOOTER = 12, 4
_LENGTH_DELIMITED = 2


class Malformed(ValueError):
    """Bytes that are not an Example."""


def records(path: Path) -> Iterator[tuple[mmap.mmap, Span]]:
    """The mapped file with the span of each record's payload, in order.

    The lengths are checked against their CRC32C. Raises FinetuneError if one is wrong, or the file is cut off.
    """
    size = path.stat().st_size
    if not size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        at, number = 0, 0
        while at < size:
            header = mapped[at : at + _HEADER]
            length, checksum = struct.unpack("<QI", header) if len(header) == _HEADER else (0, -1)
            if checksum != masked_crc32c(header[:8]):
                compressed = not number and (mapped[:2] == b"\x1f\x8b" or mapped[:1] == b"\x78")
                advice = (
                    "it is compressed: write it without compression" if compressed else "download or write it again"
                )
                raise FinetuneError(
                    f"{path} is no TFRecord file, or damaged: the checksum of record {number}'s length, at byte {at}, "
                    f"is wrong; {advice}"
                )
            end = at + _HEADER + length
            if end + _FOOTER > size:
                raise FinetuneError(f"{path} is cut off in record {number}, at byte {at}: download or write it again")
            yield mapped, (at + _HEADER, end)
            at, number = end + _FOOTER, number + 1


def features(buffer: Buffer, span: Span) -> dict[str, Span]:
    """The features of the Example at `span`: maps names to the span of the Feature message. Raises Malformed."""
    found = {}
    for _, outer in _messages(buffer, span, 1):  # Example.features
        for _, entry in _messages(buffer, outer, 1):  # Features.feature, a map: entries of key and value
            parts = dict(_messages(buffer, entry, None))
            if 1 in parts and 2 in parts:
                begin, end = parts[1]
                found[bytes(buffer[begin:end]).decode("utf-8", "replace")] = parts[2]
    return found


def first_bytes(buffer: Buffer, feature: Span) -> Span | None:
    """The span of the first value of a bytes feature; None if there is none. Raises Malformed."""
    for _, values in _messages(buffer, feature, 1):  # Feature.bytes_list
        for _, value in _messages(buffer, values, 1):
            return value
    return None


def first_int(buffer: Buffer, feature: Span) -> int | None:
    """The first value of an int64 feature, packed or not; None if there is none. Raises Malformed."""
    for _, (begin, end) in _messages(buffer, feature, 3):  # Feature.int64_list
        if begin == end:
            return None
        tag, at = _varint(buffer, begin, end)
        if tag == (1 << 3 | _LENGTH_DELIMITED):
            length, at = _varint(buffer, at, end)
            if not length:
                return None
        value, _ = _varint(buffer, at, end)
        return value - (1 << 64) if value >> 63 else value
    return None


def _messages(buffer: Buffer, span: Span, wanted: int | None) -> Iterator[tuple[int, Span]]:
    """The length-delimited fields at `span` with the number `wanted` (None: any); other fields are skipped."""
    at, end = span
    while at < end:
        tag, at = _varint(buffer, at, end)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(buffer, at, end)
            continue
        if kind in (1, 5):
            at += 8 if kind == 1 else 4
            continue
        if kind != _LENGTH_DELIMITED:
            raise Malformed(f"field of type {kind}")
        length, at = _varint(buffer, at, end)
        if at + length > end:
            raise Malformed("a field is longer than the message around it")
        if wanted is None or tag >> 3 == wanted:
            yield tag >> 3, (at, at + length)
        at += length


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


def masked_crc32c(content: bytes) -> int:
    """The checksum of a TFRecord: CRC-32C (Castagnoli), rotated and shifted (tensorflow/core/lib/hash/crc32c.h)."""
    crc = 0xFFFF_FFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFF_FFFF
    return ((crc >> 15 | crc << 17) + 0xA282_EAD8) & 0xFFFF_FFFF


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F6_3B78 if value & 1 else 0)
    return value


_TABLE = tuple(_table_entry(value) for value in range(256))
