"""The index of a V2 checkpoint, read as data before TensorFlow is given it.

TensorFlow ends the process (`CHECK`) where an entry is no BundleEntryProto, and takes memory by the shapes an entry
claims. A checksum protects from accidents, not from an attacker who recomputes it. Formats:
tensorflow/core/lib/io/format.h and table_builder.cc (LevelDB's table); tensorflow/core/protobuf/tensor_bundle.proto.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoints.errors import CheckpointError

_FOOTER_BYTES, _RESTART_BYTES = 48, 4
_MOST_BYTES, _MOST_ENTRIES = 256 << 20, 1_000_000
_STRING_LIKE = ("string", "resource", "variant")
"""Types whose values have no size of their own."""


class _Malformed(ValueError):
    """Bytes that are no table, or an entry that cannot be; why."""


def check_index(index: Path, shards: tuple[Path, ...]) -> None:
    """Raise CheckpointError where TensorFlow could not read `index` and its `shards` without harm."""
    try:
        if index.stat().st_size > _MOST_BYTES:
            raise _Malformed(f"it has more than {_MOST_BYTES} bytes")
        _check(index.read_bytes(), [shard.stat().st_size for shard in shards])
    except (_Malformed, IndexError) as error:
        reason = str(error) if isinstance(error, _Malformed) else "a block ends in the midst of an entry"
        raise CheckpointError(
            f"{index} is no index of a checkpoint, or damaged ({reason}): copy or fetch it again"
        ) from None


def _check(content: bytes, sizes: list[int]) -> None:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import tensor_bundle_pb2

    header = tensor_bundle_pb2.BundleHeaderProto()
    try:
        for count, (key, value) in enumerate(_entries(content)):
            if count > _MOST_ENTRIES:
                raise _Malformed(f"it has more than {_MOST_ENTRIES} entries")
            if key == b"":
                header.ParseFromString(value)
                if header.num_shards != len(sizes):
                    raise _Malformed(f"it is of {header.num_shards} shards, there are {len(sizes)}")
            else:
                _check_entry(tensor_bundle_pb2.BundleEntryProto.FromString(value), sizes)
    except DecodeError:
        raise _Malformed("an entry is no protocol buffer") from None


def _check_entry(entry: Any, sizes: list[int]) -> None:
    import tensorflow as tf

    try:
        dtype = tf.as_dtype(entry.dtype)
    except TypeError:
        raise _Malformed("an entry has a type that there is not") from None
    sides = [dim.size for dim in entry.shape.dim]
    if entry.shape.unknown_rank or any(side < 0 for side in sides):
        raise _Malformed("a tensor has no shape")
    if entry.slices:
        return  # its parts are entries of their own
    if not 0 <= entry.shard_id < len(sizes) or min(entry.offset, entry.size) < 0:
        raise _Malformed("a tensor lies in no shard")
    if entry.offset + entry.size > sizes[entry.shard_id]:
        raise _Malformed("a tensor lies beyond the end of its shard: that is cut off, or another checkpoint's")
    count = math.prod(sides)
    if dtype.name in _STRING_LIKE:
        if count > entry.size:  # each has a length in front, of a byte at least
            raise _Malformed("a tensor of text has fewer bytes than texts")
    elif count * dtype.size != entry.size:
        raise _Malformed(f"a tensor of {count} numbers has {entry.size} bytes")


def _entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    # The footer holds two handles, (offset, size) of a block: of the metaindex, which is empty, and of the index.
    (_, _, *index), _ = _varints(content[-_FOOTER_BYTES:], 0, 4)
    for _, value in _block(content, *index):
        yield from _block(content, *_varints(value, 0, 2)[0])


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a block: each repeats `shared` bytes of the key before it."""
    if size < _RESTART_BYTES or offset + size >= len(content):
        raise _Malformed("a block lies beyond its end")
    if content[offset + size]:
        raise _Malformed("a block is compressed, as TensorFlow writes none")
    block = content[offset : offset + size]
    restarts = int.from_bytes(block[-_RESTART_BYTES:], "little")
    end, at, key = size - _RESTART_BYTES * (restarts + 1), 0, b""
    if end < 0:
        raise _Malformed("a block is shorter than its restarts")
    while at < end:
        (shared, unshared, length), at = _varints(block, at, 3)
        if shared > len(key) or at + unshared + length > end:
            raise _Malformed("an entry is longer than its block")
        key = key[:shared] + block[at : at + unshared]
        yield key, block[at + unshared : at + unshared + length]
        at += unshared + length


def _varints(content: bytes, at: int, count: int) -> tuple[list[int], int]:
    """(`count` numbers from `at` on, where the next thing begins): seven bits a byte, the lowest first."""
    values = []
    for _ in range(count):
        value = shift = 0
        while (byte := content[at]) >= 0x80:
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if shift >= 70:
                raise _Malformed("a number without an end")
        values.append(value | byte << shift)
        at += 1
    return values, at
