"""Images that are equal to the pixel, and images that look the same: groups of them, in hundreds of thousands."""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from finetune.data.check.measures import THUMBNAIL

FLAT = 4.0
"""Images with a smaller standard deviation of their grey values show nothing, and are no duplicates of each other."""
FURTHEST = 6
"""The most of the 64 bits in which the hashes of two images differ that look the same. The search relies on it: two
hashes that differ in at most 7 bits have at most one different bit in one of their four parts."""
ALIKE = 0.97
"""The least correlation of the grey thumbnails of two images that look the same, after the mean of all thumbnails is
subtracted: digits on black all resemble each other. Of 52 such pairs in 30,000 images of CIFAR-10, all are copies."""

_PARTS, _BITS = 4, 16
_CHUNK = 1 << 20
"""Pairs that are compared at once."""
_COUNTS = np.array([value.bit_count() for value in range(1 << _BITS)], np.uint8)


def exact_groups(digests: np.ndarray, numbers: np.ndarray) -> list[np.ndarray]:
    """The images among int `numbers` with equal `digests` `[n]`: an array of two or more numbers for each such digest,
    sorted."""
    _, inverse = np.unique(digests[numbers], return_inverse=True)
    return _grouped(inverse.reshape(-1), numbers)


def similar_groups(hashes: np.ndarray, thumbnails: np.ndarray, numbers: np.ndarray) -> list[np.ndarray]:
    """Groups as of `exact_groups` of images that look the same.

    hashes: uint64 `[n]`; thumbnails: uint8 `[n, side, side]`. Images are linked whose hashes differ in at most FURTHEST
    bits and whose thumbnails correlate by ALIKE; a group is everything that is linked directly or through others.
    """
    links = [pair for pair in _near(hashes[numbers]) if len(pair[0])]
    if not links:
        return []
    first, second = np.concatenate(links, axis=1)
    scaled = _scaled(thumbnails[numbers])
    kept = np.zeros(len(first), bool)
    for start in range(0, len(first), _CHUNK // 16):
        part = slice(start, start + _CHUNK // 16)
        kept[part] = np.einsum("ij,ij->i", scaled[first[part]], scaled[second[part]]) >= ALIKE
    first, second = first[kept], second[kept]
    graph = coo_matrix((np.ones(len(first), np.int8), (first, second)), shape=(len(numbers), len(numbers)))
    return _grouped(connected_components(graph, directed=False)[1], numbers)


def _near(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(first, second) positions of all pairs whose hashes differ in at most FURTHEST bits; a pair may come repeatedly.

    By the pigeonhole principle, one of the four 16-bit parts of such a pair differs in one bit or none. Each part is
    sorted, and looked up as it is and with each of its bits turned: 68 look-ups for a hash and not one for each other.
    """
    for part in range(_PARTS):
        keys = (hashes >> np.uint64(part * _BITS)).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for turned in (0, *(1 << bit for bit in range(_BITS))):
            wanted = keys ^ np.uint16(turned)
            begin, end = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
            yield from _compared(hashes, order, begin, end - begin)


def _compared(
    hashes: np.ndarray, order: np.ndarray, begin: np.ndarray, counts: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of the pairs (i, order[begin[i] + k]) for k below counts[i], those that are near, in chunks."""
    ends = np.cumsum(counts)
    total, start, first_row = int(ends[-1]) if len(ends) else 0, 0, 0
    while start < total:
        last_row = max(int(np.searchsorted(ends, start + _CHUNK, "right")), first_row + 1)
        rows = np.arange(first_row, last_row)
        size = counts[rows]
        first = np.repeat(rows, size)
        within = np.arange(len(first)) - np.repeat(np.cumsum(size) - size, size)
        second = order[np.repeat(begin[rows], size) + within]
        ahead = first < second
        first, second = first[ahead], second[ahead]
        near = distance(hashes[first], hashes[second]) <= FURTHEST
        yield first[near], second[near]
        start, first_row = int(ends[last_row - 1]), last_row


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The Hamming distance of 64-bit hashes, uint64 `[n]`: uint8 `[n]`."""
    parts = np.ascontiguousarray(one ^ other).view(np.uint16).reshape(-1, _PARTS)
    return np.asarray(_COUNTS[parts].sum(axis=1, dtype=np.uint8))


def _scaled(thumbnails: np.ndarray) -> np.ndarray:
    """float32 `[n, values]` of length 1, without the mean of all: their products are correlations.

    Of fewer than 100 thumbnails, the mean says little, and may be one of them: it is not subtracted.
    """
    values = thumbnails.reshape(len(thumbnails), THUMBNAIL * THUMBNAIL).astype(np.float32)
    for axis in (1, 0) if len(values) >= 100 else (1,):
        if axis == 0:
            values /= _lengths(values)
        values -= values.mean(axis=axis, keepdims=True)
    return np.asarray(values / _lengths(values), np.float32)


def _lengths(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6))


def _grouped(group: np.ndarray, numbers: np.ndarray) -> list[np.ndarray]:
    """`numbers` by their `group`, int `[n]`, as far as these have several members."""
    order = np.argsort(group, kind="stable")
    parts = np.split(numbers[order], np.flatnonzero(np.diff(group[order])) + 1)
    return [np.sort(part) for part in parts if len(part) > 1]
