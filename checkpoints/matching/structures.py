"""Every variable of every catalogue network without building one: what `make structures` wrote."""

import gzip
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

FILE = "structures.json.gz"
"""Its place in this package."""


class Entry(NamedTuple):
    """A variable of a network: its name, its shape, and its key in a `.weights.h5` file of Keras 3.

    name: as the published file has it: `scope/weights` of slim networks, `layer/variable` of Keras networks.
    """

    name: str
    shape: tuple[int, ...]
    key: str


@cache
def structures() -> Mapping[str, tuple[Entry, ...]]:
    """The variables of each row's network with the published head, by `source/name`, in the network's order."""
    packed = (importlib.resources.files("checkpoints") / FILE).read_bytes()
    return decoded(packed)


def encoded(rows: Mapping[str, Sequence[Entry]]) -> bytes:
    """The file of `rows`: equal rows give equal bytes."""
    text = json.dumps({row: rows[row] for row in sorted(rows)}, separators=(",", ":"))
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def decoded(packed: bytes) -> dict[str, tuple[Entry, ...]]:
    """What `encoded` has packed."""
    rows = json.loads(gzip.decompress(packed))
    return {row: tuple(Entry(name, tuple(shape), key) for name, shape, key in rows[row]) for row in rows}
