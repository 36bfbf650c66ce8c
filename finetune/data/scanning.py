"""Inspect photos before a run starts: which of them are damaged, and how large they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.data import decoding
from finetune.data.decoding import BadImage
from finetune.data.lazy import Photos, in_threads
from finetune.errors import FinetuneError

Progress = Callable[[int, int | None], None]
"""Called as work goes on, with the amount done and the total, which is None if it is not known."""

DECODED = 2_000
"""Up to so many photos are decoded in full as a check, which takes a few seconds. Of more, the headers are read."""
OPENED = 100_000
"""The most headers that are read, evenly drawn. A damaged photo that this misses is named when it is decoded."""

_NAMED = 5
_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Inspection:
    """The result of inspecting n photos.

    good: bool `[n]`, False for the photos that are left out. bad: their names and reasons. side: the median of the
    short sides, in px.
    """

    good: np.ndarray
    bad: tuple[str, ...]
    side: int


def inspect_photos(photos: Photos, *, skip_bad: bool, progress: Progress | None = None) -> Inspection:
    """Inspect `photos`.

    With `skip_bad`, every photo is decoded and damaged ones are left out. So every machine leaves out the same photos,
    and batches remain a function of the seed. Otherwise damaged photos raise a FinetuneError that names them, as far
    as a check finds them that costs less than an epoch (DECODED, OPENED).
    """
    count = len(photos)
    whole = skip_bad or count <= DECODED
    inspected = count if whole else min(count, OPENED)
    numbers = np.arange(inspected) * count // max(inspected, 1)
    good, sides, bad = np.ones(count, bool), np.zeros(inspected, np.int64), []

    def inspect_one(position: int) -> tuple[int, BadImage | None]:
        number = int(numbers[position])
        try:
            with decoding.naming(photos.place(number)), photos.open(number) as image:
                side = min(decoding.upright_size(image))
                if whole:
                    decoding.check(image)
                return side, None
        except BadImage as error:
            return 0, error

    with decoding.silent_warnings():
        for start in range(0, inspected, _AT_ONCE):
            block = range(start, min(start + _AT_ONCE, inspected))
            for position, (side, error) in zip(block, in_threads(inspect_one, block), strict=True):
                sides[position] = side
                if error is not None:
                    good[numbers[position]] = False
                    bad.append(f"{error.name}: {error.reason}")
            if progress is not None:
                progress(block.stop, inspected)
    if bad and not skip_bad:
        of = f"{inspected} images" if inspected == count else f"the {inspected} images inspected (of {count})"
        raise FinetuneError(
            f"{len(bad)} of {of} cannot be used: {first_few(bad)}. Replace or remove "
            f"{'it' if len(bad) == 1 else 'them'}, or give --skip-bad-images to leave such images out"
        )
    readable = sides[sides > 0]
    if not len(readable):
        raise FinetuneError(
            f"none of the {count} images can be read, the first being {first_few(bad[:1])}: check the data"
        )
    return Inspection(good, tuple(bad), int(np.median(readable)))


def first_few(bad: Sequence[str]) -> str:
    """The first few entries of `bad`, and how many more there are."""
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return "; ".join(bad[:_NAMED]) + more
