"""Bytes changed on purpose: as accidents do it, and as somebody does it who puts the checksums right afterwards."""

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

from finetune.data.sources.tfrecord_file import masked_crc32c

Mutate = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**62, 2**63, 2**64 - 1)


def flip(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """One to eight bits."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = _place(rng, out)
        out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwrite(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """A few bytes with random ones."""
    at = _place(rng, content)
    new = rng.randbytes(rng.choice((1, 2, 4, 16)))
    return (content[:at] + new + content[at + len(new) :])[: len(content)]


def truncate(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Cut off, anywhere."""
    return content[: rng.randrange(len(content))]


def length(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """A number that sits at the edge of what 1, 2, 4 or 8 bytes hold, where a length may lie."""
    kind = rng.choice(("<B", "<H", "<I", "<Q", ">H", ">I", ">Q"))
    new = struct.pack(kind, rng.choice(_EDGES) & (256 ** struct.calcsize(kind) - 1))
    at = _place(rng, content)
    return content[:at] + new + content[at + len(new) :]


def varint(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """A small byte made a long number, as protobuf and LevelDB write them: what follows moves."""
    at, value, new = _place(rng, content), rng.choice(_EDGES), bytearray()
    while value > 0x7F:
        new.append(value & 0x7F | 0x80)
        value >>= 7
    new.append(value)
    return content[:at] + bytes(new) + content[at + 1 :]


def blank(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """A run of zeros or ones, as a disk leaves it."""
    at, size = _place(rng, content), rng.choice((1, 8, 64, 512, 4096))
    size = min(size, len(content) - at)
    return content[:at] + rng.choice((b"\0", b"\xff")) * size + content[at + size :]


def splice(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """A piece of another file, or of another place in this one, put in or put over."""
    other = rng.choice([content, *others])
    start = rng.randrange(max(len(other), 1))
    piece = other[start : start + rng.choice((4, 32, 256, 4096))]
    at = _place(rng, content)
    return content[:at] + piece + content[at + (len(piece) if rng.random() < 0.5 else 0) :]


def remove(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """A piece left out."""
    at = _place(rng, content)
    return content[:at] + content[at + rng.choice((1, 4, 32, 512)) :]


def repeat(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """A piece that comes twice, or very often."""
    at = _place(rng, content)
    piece = content[at : at + rng.choice((1, 4, 32))]
    return content[:at] + piece * rng.choice((2, 3, 100, 1000)) + content[at:]


PLAIN: tuple[Mutate, ...] = (flip, overwrite, truncate, length, varint, blank, splice, remove, repeat)


def plain(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> tuple[str, bytes]:
    """(what was done, the changed bytes): one of PLAIN, sometimes two."""
    names = []
    for _ in range(rng.choice((1, 1, 2))):
        mutate = rng.choice(PLAIN)
        names.append(mutate.__name__)
        if content:
            content = mutate(rng, content, others)
    return "+".join(names), content


def _place(rng: random.Random, content: bytes | bytearray) -> int:
    """Anywhere, but half of the time near the beginning or the end, where formats keep their structure."""
    size = len(content)
    if size > 512 and rng.random() < 0.5:
        return rng.randrange(256) if rng.random() < 0.5 else size - 1 - rng.randrange(256)
    return rng.randrange(size)


# The checksums put right: below, what is changed lies behind them.


def sealed_table(rng: random.Random, content: bytes, _: Sequence[bytes] = ()) -> bytes:
    """A LevelDB table (V1 checkpoint, V2 index) with one of its blocks changed under a right CRC32C.

    tensorflow/core/lib/io/format.cc: the footer has the handles of metaindex and index; a block is followed by its
    type and the masked CRC32C of both. The blocks keep their sizes, so that the handles stay true.
    """
    footer = content[-48:]
    blocks, at = [], 0
    for _ in range(2):
        offset, at = _varint(footer, at)
        size, at = _varint(footer, at)
        blocks.append((offset, size))
    index_offset, index_size = blocks[1]
    blocks += _handles(content[index_offset : index_offset + index_size])
    offset, size = rng.choice([block for block in blocks if block[1]])
    changed = b""
    while len(changed) != size:
        mutate = rng.choice((flip, overwrite, blank))
        changed = mutate(rng, content[offset : offset + size], ())
    out = bytearray(content)
    out[offset : offset + size] = changed
    kind = out[offset + size : offset + size + 1]
    out[offset + size + 1 : offset + size + 5] = struct.pack("<I", masked_crc32c(bytes(changed + kind)))
    return bytes(out)


def _handles(block: bytes) -> list[tuple[int, int]]:
    """Offsets and sizes in an index block, whose entries are (shared, unshared, length of the value, ...)."""
    (restarts,) = struct.unpack("<I", block[-4:])
    found, at, end = [], 0, len(block) - 4 - 4 * restarts
    while at < end:
        _, at = _varint(block, at)
        unshared, at = _varint(block, at)
        size, at = _varint(block, at)
        offset, inner = _varint(block, at + unshared)
        found.append((offset, _varint(block, inner)[0]))
        at += unshared + size
    return found


def _varint(buffer: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def in_gzip(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """What is compressed, changed; the gzip around it is whole."""
    return gzip.compress(plain(rng, gzip.decompress(content), others)[1], 1, mtime=0)


def in_zip(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """A member, or its name, changed; the zip around it is whole."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        infos = old.infolist()
        chosen = rng.choice(infos)
        for info in infos:
            data, name = old.read(info), info.filename
            if info is chosen:
                if rng.random() < 0.9:
                    data = plain(rng, data, others)[1] if data else b"\0"
                else:
                    name = rng.choice(("../", "/tmp/", "C:\\", "a/../../")) + name
            new.writestr(zipfile.ZipInfo(name), data, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    return out.getvalue()


def in_records(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """A TFRecord's payload changed, its length and both checksums right."""
    records, at = [], 0
    while at < len(content):
        (size,) = struct.unpack("<Q", content[at : at + 8])
        records.append(content[at + 12 : at + 12 + size])
        at += size + 16
    chosen = rng.randrange(len(records))
    records[chosen] = plain(rng, records[chosen], others)[1]
    out = bytearray()
    for record in records:
        size = struct.pack("<Q", len(record))
        out += size + struct.pack("<I", masked_crc32c(size)) + record + struct.pack("<I", masked_crc32c(record))
    return bytes(out)


def in_png(rng: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """A chunk of a PNG changed, its length and CRC right; of the pixels, what was compressed."""
    chunks, at = [], 8
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += size + 12
    chosen = rng.randrange(len(chunks))
    kind, data = chunks[chosen]
    if kind == b"IDAT" and rng.random() < 0.7:
        data = zlib.compress(plain(rng, zlib.decompress(data), others)[1], 1)
    elif data:
        data = plain(rng, data, others)[1]
    chunks[chosen] = (kind, data)
    out = bytearray(content[:8])
    for kind, data in chunks:
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return bytes(out)
