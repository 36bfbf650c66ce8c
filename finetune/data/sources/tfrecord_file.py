"""TFRecord files of `tf.train.Example`s at random access: the position of each record, its label and its image.

TensorFlow reads these files from front to back and copies every record to parse it. This module maps a file into
memory and steps through it. Reading a label touches a few bytes and not the image next to it, so 130 GB of ImageNet
are indexed without being read.

Format: tensorflow/core/lib/io/record_writer.h.
"""

import mmap
import os
import struct
import weakref
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data import decoding
from finetune.data.lazy import Photos, Progress
from finetune.data.sources.assembly import LabelledPhotos
from finetune.data.sources.label_lists import numbered
from finetune.data.sources.record_copies import DATA, copied
from finetune.data.sources.tfrecord_example import Buffer, Example, Keys, Malformed, Span
from finetune.data.sources.tfrecord_pixels import image_of, is_raw
from finetune.errors import FinetuneError
from finetune.text import printable

_HEADER, _FOOTER = 12, 4
_REPORT_EVERY = 1_000
_MOST_CLASSES = 100_000


class Records(Photos):
    """The images of some TFRecord files.

    rows: int64 `[n, 4]`, for each record the position of its file in `paths`, its number in that file, and the begin
    and end of its bytes in the file of `plain` at that position: the file itself, or its uncompressed copy. `held` are
    the file descriptors that keep the copies; they are closed with this value.
    """

    def __init__(self, paths: list[Path], plain: list[Path], rows: np.ndarray, keys: Keys, held: list[int]) -> None:
        self._paths, self._plain, self._keys = paths, plain, keys
        for descriptor in held:
            weakref.finalize(self, os.close, descriptor)
        self._file, self._within, self._begin, self._end = rows.T

    def __len__(self) -> int:
        return len(self._file)

    def open(self, number: int) -> Image.Image:
        """The image with its header read."""
        place = self.place(number)
        with decoding.naming(place):
            example = Example(self.content(number))
            pixels = example.first_bytes(self._keys.image)
            keys = self._keys
            raw = keys.pixels or keys.side or example.first_bytes(keys.format).lower() == b"raw"
            if raw or is_raw(example, keys, pixels):
                return image_of(example, keys)
        return decoding.opened(pixels, place)

    def name(self, number: int) -> str:
        """The file's name and the record's number in it, from 0."""
        return f"{printable(self._paths[self._file[number]].name)} record {self._within[number]}"

    def place(self, number: int) -> str:
        """The same with the file's path."""
        return f"{printable(str(self._paths[self._file[number]]))} record {self._within[number]}"

    def content(self, number: int) -> bytes:
        """The whole record."""
        with self._plain[self._file[number]].open("rb") as file:
            file.seek(int(self._begin[number]))
            content: bytes = file.read(self.bytes_of(number))
            return content

    def reading(self) -> str:
        """A record may hold several images: which of them is read, and how."""
        return super().reading() + ("" if self._keys == Keys() else f" {self._keys}")

    def bytes_of(self, number: int) -> int:
        """The record's length."""
        return int(self._end[number] - self._begin[number])

    def picture(self, number: int) -> bytes:
        """The image in the record, without its label, file name and other features."""
        with decoding.naming(self.place(number)):
            example = Example(self.content(number))
            return example.first_bytes(self._keys.image) or example.content(self._keys.image)


def index_records(
    files: Mapping[str, list[Path]], keys: Keys, progress: Progress | None, *, several: bool = False
) -> tuple[LabelledPhotos, tuple[str, ...]]:
    """(the images of each split's files with their labels, the texts of labels that are text, in the order found).

    Lists of labels are read as `label_lists.numbered` says; `several`: as several labels an image.

    Compressed files are read through uncompressed copies. Raises FinetuneError.
    """
    paths: list[Path] = []
    plain: list[Path] = []
    held: list[int] = []
    texts: dict[str, int] = {}
    rows, labels = array("q"), list[int | tuple[float, ...]]()
    members, lists = {}, False
    first_only = keys.label.startswith("image/object/") and not several
    for split, of_split in files.items():
        first = len(labels)
        for path in of_split:
            place, handles = uncompressed(path)
            plain.append(place)
            held.extend(handles)
            for within, (mapped, span) in enumerate(records(place, path)):
                label = _label(mapped, span, keys, f"{path} record {within}", texts)
                lists = lists or isinstance(label, tuple)
                labels.append(int(label[0]) if isinstance(label, tuple) and label and first_only else label)
                rows.extend((len(paths), within, *span))
                if progress is not None and len(labels) % _REPORT_EVERY == 0:
                    progress(len(labels), None)
            paths.append(path)
        members[split] = np.arange(first, len(labels), dtype=np.int64)
        if first == len(labels):
            raise FinetuneError(
                f"{of_split[0].parent}: the {split} TFRecords hold no image: download or write them again"
            )
    photos = Records(paths, plain, np.array(rows).reshape(-1, 4), keys, held)
    if lists or several:
        places = [photos.place(number) for number in range(len(photos))]
        return LabelledPhotos(photos, numbered(labels, places, keys.label, several=several), members), ()
    return LabelledPhotos(photos, np.array(labels), members), tuple(texts)


def uncompressed(path: Path) -> tuple[Path, tuple[int, ...]]:
    """(`path`, or its uncompressed copy if it is compressed; the file descriptor that keeps the copy)."""
    with path.open("rb") as file:
        head = file.read(_HEADER)
    packed = head[:2] == b"\x1f\x8b" or (head[:1] == b"\x78" and int.from_bytes(head[:2]) % 31 == 0)
    if not packed or (len(head) == _HEADER and struct.unpack("<I", head[8:])[0] == masked_crc32c(head[:8])):
        return path, ()
    folder, handle = copied(path)
    return folder / DATA, (handle,)


def first_record(path: Path) -> Example | None:
    """The first record of a file; None if there is none. Raises FinetuneError for what is no Example."""
    place, held = uncompressed(path)
    try:
        for mapped, (begin, end) in records(place, path):
            with naming_record(f"{path} record 0"):
                return Example(mapped[begin:end])
        return None
    finally:
        for descriptor in held:
            os.close(descriptor)


def _label(mapped: Buffer, span: Span, keys: Keys, place: str, texts: dict[str, int]) -> int | tuple[float, ...]:
    """The label of a record, or its list of labels, which may be empty. Text is numbered in the order in which it is
    first met, in `texts`."""
    with naming_record(place):
        example = Example(mapped, span)
        values = list(islice(example.numbers(keys.label), _MOST_CLASSES)) if keys.label else []
        text = example.first_bytes(keys.text) if keys.text and not values else b""
    if (
        not values
        and example.kind(keys.label) != "bytes"
        and keys.label in example.features
        and keys.image in example.features
    ):
        return ()
    if keys.image not in example.features or not (values or (text and not keys.label)):
        missing = keys.image if keys.image not in example.features else keys.label or keys.text
        has = ", ".join(f"{printable(key)} ({example.kind(key) or 'empty'})" for key in sorted(example.features))
        kind = " of numbers" if missing == keys.label and missing in example.features else ""
        raise FinetuneError(
            f"{place} has no {missing}{kind}: expected {keys.image} and {keys.label or keys.text}, found "
            f"{has or 'nothing'}"
        )
    if text and not values:
        return texts.setdefault(printable(text.decode("utf-8", "replace")), len(texts))
    if len(values) > 1:
        return tuple(values)
    if values[0] != values[0] or values[0] % 1 or abs(values[0]) >= 2**62:
        raise FinetuneError(f"{place} has the label {values[0]:g} in {keys.label}: expected a whole number, its class")
    return int(values[0])


@contextmanager
def naming_record(place: str) -> Iterator[None]:
    """Turns Malformed into an error that names the record."""
    try:
        yield
    except Malformed as error:
        raise FinetuneError(f"{place} is no tf.train.Example ({error}): expected one of an image and a label") from None


def records(path: Path, named: Path) -> Iterator[tuple[mmap.mmap, Span]]:
    """The mapped file `path`, called `named` in messages, with the span of each record's payload, in order.

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
                raise FinetuneError(
                    f"{named} is no TFRecord file, or damaged: the checksum of record {number}'s length, at byte {at}, "
                    "is wrong; download or write it again"
                )
            end = at + _HEADER + length
            if end + _FOOTER > size:
                raise FinetuneError(f"{named} is cut off in record {number}, at byte {at}: download or write it again")
            yield mapped, (at + _HEADER, end)
            at, number = end + _FOOTER, number + 1


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
