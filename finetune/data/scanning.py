"""Look photos through before a run starts: which of them are damaged, and how large they are."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from finetune.data import decoding
from finetune.data.decoding import BadImage
from finetune.data.lazy import Photos, in_threads
from finetune.errors import FinetuneError

Progress = Callable[[int, int | None], None]

DECODED = 2_000
"""Up to so many photos are decoded as a check, in a few seconds; of more only the headers are read..."""
OPENED = 100_000
"""...and up to so many: beyond it, so many evenly drawn ones. What is missed is named when it is decoded."""

_NAMED = 5
_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Inspection:
    """`good`: bool `[n]`, False for the photos that are left out. `bad`: what is wrong with them, each named.
    `side`: the median of the short sides, in px."""

    good: np.ndarray
    bad: tuple[str, ...]
    side: int


def inspect(photos: Photos, *, skip_bad: bool, progress: Progress | None = None) -> Inspection:
    """Look `photos` through.

    `skip_bad` decodes every one of them and leaves out what is damaged, so that the same photos are left out on every
    machine and the batches stay a function of the seed. Otherwise what is damaged is an error that names it:
    FinetuneError, for as many as a check finds that costs less than an epoch (DECODED, OPENED).
    """
    count = len(photos)
    whole = skip_bad or count <= DECODED
    looked_at = count if whole else min(count, OPENED)
    # All of them, in order, where all are looked at.
    numbers = np.arange(looked_at) * count // max(looked_at, 1)
    good, sides, bad = np.ones(count, bool), np.zeros(looked_at, np.int64), []

    def look(position: int) -> tuple[int, BadImage | None]:
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
        for start in range(0, looked_at, _AT_ONCE):
            block = range(start, min(start + _AT_ONCE, looked_at))
            for position, (side, error) in zip(block, in_threads(look, block), strict=True):
                sides[position] = side
                if error is not None:
                    good[numbers[position]] = False
                    bad.append(f"{error.name}: {error.reason}")
            if progress is not None:
                progress(block.stop, looked_at)
    if bad and not skip_bad:
        raise FinetuneError(_refusal(bad, looked_at, count))
    readable = sides[sides > 0]
    if not len(readable):
        raise FinetuneError(
            f"none of the {count} images can be read, the first being {listed(bad[:1])}: check the data"
        )
    return Inspection(good, tuple(bad), int(np.median(readable)))


def listed(bad: list[str] | tuple[str, ...]) -> str:
    """The first few, and how many more there are."""
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return "; ".join(bad[:_NAMED]) + more


def _refusal(bad: list[str], looked_at: int, count: int) -> str:
    of = f"{looked_at} images" if looked_at == count else f"the {looked_at} images looked at (of {count})"
    return (
        f"{len(bad)} of {of} cannot be used: {listed(bad)}. Replace or remove {'it' if len(bad) == 1 else 'them'}, or "
        "give --skip-bad-images to leave such images out"
    )
