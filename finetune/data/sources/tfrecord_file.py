"""TFRecord files of `tf.train.Example`s at random access: the position of each record, its label and its image.

TensorFlow reads these files from front to back and copies every record to parse it. This module maps a file into
memory and steps through it. Reading a label touches a few bytes and not the image next to it, so 130 GB of ImageNet
are indexed without being read.

Formats: tensorflow/core/lib/io/record_writer.h; tensorflow/core/example/{example,feature}.proto.
"""

import mmap
import struct
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data import decoding
from finetune.data.lazy import Photos, Progress
from finetune.data.sources.assembly import LabelledPhotos
from finetune.errors import FinetuneError
from finetune.text import printable

Buffer = bytes | mmap.mmap
Span = tuple[int, int]
"""Begin and end of a part of a buffer, in bytes."""

_HEADER, _FOOTER = 12, 4
_LENGTH_DELIMITED = 2
_REPORT_EVERY = 1_000


@dataclass(frozen=True)
class Keys:
    """The names of the features, by default slim's. `height` and `width` are needed only for the format `raw`."""

    image: str = "image/encoded"
    label: str = "image/class/label"
    format: str = "image/format"
    height: str = "image/height"
    width: str = "image/width"


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

    def first_int(self, key: str) -> int | None:
        """The first value of the int64 feature `key`, packed or not; None if there is none."""
        begin, end = next(_messages(self._buffer, self.features.get(key, (0, 0)), 3), (0, 0))  # Feature.int64_list
        if begin == end:
            return None
        tag, at = _varint(self._buffer, begin, end)
        if tag == (1 << 3 | _LENGTH_DELIMITED):
            length, at = _varint(self._buffer, at, end)
            if not length:
                return None
        value, _ = _varint(self._buffer, at, end)
        return value - (1 << 64) if value >> 63 else value


class Records(Photos):
    """The images of some TFRecord files.

    rows: int64 `[n, 4]`, for each record the position of its file in `paths`, its number in that file, and the begin
    and end of its bytes.
    """

    def __init__(self, paths: list[Path], rows: np.ndarray, keys: Keys) -> None:
        self._paths, self._keys = paths, keys
        self._file, self._within, self._begin, self._end = rows.T

    def __len__(self) -> int:
        return len(self._file)

    def open(self, number: int) -> Image.Image:
        """The image with its header read."""
        place = self.place(number)
        with decoding.naming(place):
            example = Example(self.content(number))
            pixels = example.first_bytes(self._keys.image)
            if example.first_bytes(self._keys.format).lower() == b"raw":
                return self._raw(example, pixels)
        return decoding.opened(pixels, place)

    def _raw(self, example: Example, pixels: bytes) -> Image.Image:
        width, height = (example.first_int(key) or 0 for key in (self._keys.width, self._keys.height))
        channels = len(pixels) // (width * height) if width > 0 and height > 0 else 0
        if channels not in (1, 3) or width * height * channels != len(pixels):
            raise ValueError(f"{len(pixels)} raw bytes are no image of {width} x {height} pixels")
        return Image.frombytes("L" if channels == 1 else "RGB", (width, height), pixels)

    def name(self, number: int) -> str:
        """The file's name and the record's number in it, from 0."""
        return f"{printable(self._paths[self._file[number]].name)} record {self._within[number]}"

    def place(self, number: int) -> str:
        """The same with the file's path."""
        return f"{printable(str(self._paths[self._file[number]]))} record {self._within[number]}"

    def content(self, number: int) -> bytes:
        """The whole record."""
        with self._paths[self._file[number]].open("rb") as file:
            file.seek(int(self._begin[number]))
            content: bytes = file.read(self.bytes_of(number))
            return content

    def bytes_of(self, number: int) -> int:
        """The record's length."""
        return int(self._end[number] - self._begin[number])

    def picture(self, number: int) -> bytes:
        """The image in the record, without its label, file name and other features."""
        with decoding.naming(self.place(number)):
            return Example(self.content(number)).first_bytes(self._keys.image)


def index_records(files: Mapping[str, list[Path]], keys: Keys, progress: Progress | None) -> LabelledPhotos:
    """The images of each split's files with their labels. Raises FinetuneError."""
    paths: list[Path] = []
    rows, labels = array("q"), array("q")
    members = {}
    for split, of_split in files.items():
        first = len(labels)
        for path in of_split:
            for within, (mapped, span) in enumerate(records(path)):
                labels.append(_label(mapped, span, keys, path, within))
                rows.extend((len(paths), within, *span))
                if progress is not None and len(labels) % _REPORT_EVERY == 0:
                    progress(len(labels), None)
            paths.append(path)
        members[split] = np.arange(first, len(labels), dtype=np.int64)
        if first == len(labels):
            raise FinetuneError(
                f"{of_split[0].parent}: the {split} TFRecords hold no image: download or write them again"
            )
    return LabelledPhotos(Records(paths, np.array(rows).reshape(-1, 4), keys), np.array(labels), members)


def _label(mapped: Buffer, span: Span, keys: Keys, path: Path, number: int) -> int:
    try:
        example = Example(mapped, span)
        label = example.first_int(keys.label)
    except Malformed as error:
        raise FinetuneError(
            f"{path} record {number} is no tf.train.Example ({error}): expected slim's, with {keys.image} and "
            f"{keys.label}"
        ) from None
    missing = keys.label if label is None else keys.image if keys.image not in example.features else None
    if missing or label is None:
        has = ", ".join(sorted(printable(name) for name in example.features)) or "no features"
        prepared = (path.parent / "dataset_info.json").is_file()
        hint = "; tensorflow_datasets prepared it: give --data tfds:NAME and its root as --data-dir" if prepared else ""
        raise FinetuneError(
            f"{path} record {number} has no {missing}: expected {keys.image} and {keys.label}, found {has}{hint}"
        )
    return label


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


def _messages(buffer: Buffer, span: Span, number: int, *inner: int) -> Iterator[Span]:
    """The fields `number` of the message at `span`, or the fields `inner` within them, a number a level."""
    for found, field in _fields(buffer, span):
        if found == number:
            yield from _messages(buffer, field, *inner) if inner else (field,)


def _fields(buffer: Buffer, span: Span) -> Iterator[tuple[int, Span]]:
    """The length-delimited fields of the message at `span`, each with its number; other fields are skipped."""
    at, end = span
    while at < end:
        tag, at = _varint(buffer, at, end)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(buffer, at, end)
            if at + length > end:
                raise Malformed("a field is longer than the message around it")
            yield tag >> 3, (at, at + length)
            at += length
        elif kind == 0:
            _, at = _varint(buffer, at, end)
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
