"""Photos inspected before they are used: which are damaged, how large they are, their channels, and their white.

Each is opened once. Only of large data sets in more than 8 bits, some training images are read a second time.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from finetune.data import bit_depth, decoding
from finetune.data.decoding import BadImage
from finetune.data.lazy import LazyImages, Photos, Progress, in_threads
from finetune.errors import FinetuneError

DECODED = 2_000
"""Up to so many photos are decoded in full as a check, which takes a few seconds. Of more, the headers are read."""
OPENED = 100_000
"""The most headers that are read, evenly drawn. A damaged photo that this misses is named when it is decoded."""

_NAMED = 5
_AT_ONCE = 512
_DECLARED, _NOT_DECODED = -1, 0


class _Seen(NamedTuple):
    """Of one photo: its short side in px, 0 if it is damaged. channels: 1, 3 or 4. brightest: its largest value if it
    has more than 8 bits and does not say what white is; _NOT_DECODED if only its header was read; else _DECLARED."""

    side: int
    channels: int = 3
    brightest: int = _DECLARED
    error: BadImage | None = None


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was seen of `n` photos.

    good: bool `[n]`, False for the photos that are left out. bad: the names of these, and the reasons. side: the median
    of the short sides in px. brightest: int64 `[n]`, as in `_Seen`, _DECLARED for photos that were not inspected.
    """

    good: np.ndarray
    bad: tuple[str, ...]
    side: int
    brightest: np.ndarray

    def white(self, images: LazyImages) -> int | None:
        """White of the photos that do not declare it: the largest value of `images`, rounded up to 2^n - 1.

        None if all are of 8 bits or declare it. Where only headers were read, up to 2,000 of `images` are decoded,
        evenly drawn. Raises BadImage.
        """
        if (self.brightest == _DECLARED).all():
            return None
        numbers = images.chosen
        if (self.brightest == _NOT_DECODED).any():
            few = min(len(numbers), DECODED)
            numbers = numbers[np.arange(few) * len(numbers) // max(few, 1)]
            found = in_threads(lambda at: _read_again(images.photos, int(numbers[at])), range(len(numbers)))
        else:
            found = self.brightest[numbers]
        most = max(map(int, found), default=_DECLARED)
        return None if most == _DECLARED else bit_depth.white_of(most)


def inspect_photos(
    photos: Photos, *, skip_bad: bool, excluded: Collection[str] = (), progress: Progress | None = None
) -> Inspection:
    """Inspect `photos`, and note their channels in them. Damaged ones with a name in `excluded` are no error.

    With `skip_bad`, every photo is decoded and damaged ones are left out. So every machine leaves out the same photos,
    and batches remain a function of the seed. Otherwise damaged photos raise a FinetuneError that names them, as far
    as a check finds them that costs less than an epoch (DECODED, OPENED).
    """
    count = len(photos)
    whole = skip_bad or count <= DECODED
    inspected = count if whole else min(count, OPENED)
    numbers = np.arange(inspected) * count // max(inspected, 1)
    seen: list[_Seen] = []
    with decoding.silent_warnings():
        for start in range(0, inspected, _AT_ONCE):
            block = range(start, min(start + _AT_ONCE, inspected))
            seen += in_threads(lambda position: _inspected(photos, int(numbers[position]), whole=whole), block)
            if progress is not None:
                progress(block.stop, inspected)
    bad = tuple(
        f"{one.error.name}: {one.error.reason}"
        for number, one in zip(numbers, seen, strict=True)
        if one.error is not None and photos.name(int(number)) not in excluded
    )
    if bad and not skip_bad:
        of = f"{inspected} images" if inspected == count else f"the {inspected} images inspected (of {count})"
        raise FinetuneError(
            f"{len(bad)} of {of} cannot be used: {first_few(bad)}. Replace or remove "
            f"{'it' if len(bad) == 1 else 'them'}, or give --skip-bad-images to leave such images out"
        )
    readable = [one for one in seen if one.error is None]
    if not readable:
        raise FinetuneError(
            f"none of the {count} images can be read, the first being {first_few(bad[:1])}: check the data"
        )
    photos.channels = tuple(sorted({one.channels for one in readable}))
    good, brightest = np.ones(count, bool), np.full(count, _DECLARED, np.int64)
    good[numbers] = [one.error is None for one in seen]
    brightest[numbers] = [one.brightest for one in seen]
    return Inspection(good, bad, int(np.median([one.side for one in readable])), brightest)


def first_few(bad: Sequence[str]) -> str:
    """The first few entries of `bad`, and how many more there are."""
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return "; ".join(bad[:_NAMED]) + more


def _inspected(photos: Photos, number: int, *, whole: bool) -> _Seen:
    """One photo, decoded if `whole`."""
    try:
        with decoding.naming(photos.place(number)), photos.open(number) as image:
            side, channels = min(decoding.upright_size(image)), decoding.channels_of(image)
            unknown = _is_unknown(image)
            if whole and unknown:
                return _Seen(side, channels, bit_depth.largest_value(image))
            if whole:
                decoding.check(image)
            return _Seen(side, channels, _NOT_DECODED if unknown else _DECLARED)
    except BadImage as error:
        return _Seen(0, error=error)


def _read_again(photos: Photos, number: int) -> int:
    """The `brightest` of one photo."""
    with decoding.naming(photos.place(number)), photos.open(number) as image:
        return bit_depth.largest_value(image) if _is_unknown(image) else _DECLARED


def _is_unknown(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits and does not say what white is."""
    return bit_depth.is_wide(image) and not bit_depth.declared_white(image)
