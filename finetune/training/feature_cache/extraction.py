"""Compute the rows an entry lacks, together with whoever else wants them."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from finetune.batchnorm.statistics import forward
from finetune.batchnorm.subject import Statistics
from finetune.batchnorm.surgery import parts
from finetune.data import pipeline
from finetune.data.dataset import Images
from finetune.data.preprocessing import AnyPreprocessing
from finetune.errors import FinetuneError, Interrupted, WrongUse
from finetune.training.feature_cache.entry import Entry
from finetune.training.loop import kernels

_BATCH, _PIXELS = 32, 32 * 128 * 128
"""Images computed at once at least, and how many pixels they have where there are more, up to four times as many: a
product of many rows is faster, and maps of large images have enough of them."""
_LOOK = 0.1
"""Seconds between looks at what other processes have computed."""
_ATTEMPTS = 2
"""How often damaged rows are computed anew before a place is given up."""


class DoesNotKeep(FinetuneError):
    """What was just written to an entry is not what is read from it."""


def batch_size(image_size: int) -> int:
    """Images computed at once. Always so many, or an image's last bits would depend on how many there were with it."""
    return max(_BATCH, min(4 * _BATCH, _PIXELS // image_size**2 // _BATCH * _BATCH))


@dataclass(frozen=True, eq=False)
class Part:
    """Images whose rows are wanted: `ids[i]` names the row of `images[numbers[i]]`, mirrored or not.

    together: this many at a time, exactly and from the start, because they share batch statistics; None where each
    image is on its own.
    """

    ids: np.ndarray
    images: Images
    numbers: np.ndarray
    mirrored: bool = False
    together: int | None = None


@dataclass
class Watch:
    """What an extraction tells, and asks, while it works: images done of all, whether to stop, what it waits for, what
    should not be."""

    progress: Callable[[int, int], None]
    stop: Callable[[], bool]
    waiting: Callable[[int], None]
    warn: Callable[[str], None]


class Network:
    """The lower half of a model from uint8 images, `[n, height, width, 3]`, to rows."""

    def __init__(
        self, below: keras.Model, *, statistics: Statistics, image_size: int, preprocessing: AnyPreprocessing
    ) -> None:
        self._below, self._statistics = below, statistics
        self._image_size, self._preprocessing = image_size, preprocessing
        self._run: Callable[[tf.Tensor], tf.Tensor] | None = None
        self.batch_size = batch_size(image_size)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Rows, computed by a graph that is traced at the first call: where nothing is missing, it never is."""
        if self._run is None:
            with kernels.products(parts(self._below)):
                run = forward(self._below, self._statistics, moments=False)
            prepare = tf.function(lambda pixels: pipeline.prepared(pixels, self._image_size, self._preprocessing))
            self._run = lambda pixels: run(prepare(pixels))[0]
        return np.asarray(self._run(tf.constant(images)))


def fill(entry: Entry, network: Network, wanted: list[Part], watch: Watch) -> int:
    """Make `entry` hold a row for every image of `wanted`, each as it was written; returns how many rows this process
    computed. Damaged ones are told of once, thrown away and computed anew.

    Raises Interrupted where `watch` says to stop: what is there already stays, and is not computed again. WrongUse
    where a value does not fit float16; OSError where the disk is full; DoesNotKeep.
    """
    ids = np.concatenate([part.ids for part in wanted])
    computed = _fill(entry, network, wanted, watch)
    for attempt in range(_ATTEMPTS):
        damaged = entry.damaged(ids)
        if not len(damaged):
            return computed
        entry.disown(damaged)
        if not attempt:
            watch.warn(
                f"features: {len(damaged):,} of {len(np.unique(ids)):,} rows of {entry.path} have changed since they "
                "were written: they are thrown away and computed anew. If it comes again, check the disk"
            )
        computed += _fill(entry, network, wanted, watch)
    if len(entry.damaged(ids)):
        raise DoesNotKeep(f"{entry.path} does not keep what is written to it: check the disk")
    return computed


def _fill(entry: Entry, network: Network, wanted: list[Part], watch: Watch) -> int:
    """A row for every image that has none, sound or not."""
    todo = [_Todo(part, entry.find(part.ids) >= 0, part.together or network.batch_size) for part in wanted]
    total, computed = sum(len(one.done) for one in todo), 0
    seen = len(entry)
    told = False

    def look() -> None:
        nonlocal seen
        new = entry.ids(seen)
        seen += len(new)
        for one in todo:
            one.mark(new)

    def report() -> None:
        watch.progress(sum(int(one.done.sum()) for one in todo), total)
        if watch.stop():
            raise Interrupted("stopped while features were computed")

    def keep(ids: np.ndarray, rows: np.ndarray) -> None:
        entry.append(ids, _stored(rows, entry))
        entry.release(ids)

    with (
        ThreadPoolExecutor(1, thread_name_prefix="features") as reader,
        ThreadPoolExecutor(1, thread_name_prefix="rows") as writer,
    ):
        while not all(one.done.all() for one in todo):
            kept: Future[None] | None = None
            for one, places, pixels in _ahead(entry, todo, reader, look):
                rows = network(pixels.result())[: len(places)]
                if kept is not None:
                    kept.result()
                kept = writer.submit(keep, one.part.ids[places], rows)
                computed += len(places)
                look()
                report()
            if kept is not None:
                kept.result()
            look()
            report()
            left = sum(int((~one.done).sum()) for one in todo)
            if left:
                if not told:
                    watch.waiting(left)
                    told = True
                time.sleep(_LOOK)
    return computed


class _Todo:
    """Which images of a part have their row."""

    def __init__(self, part: Part, done: np.ndarray, batch_size: int) -> None:
        self.part, self.done, self.batch_size = part, done, batch_size
        self._order = np.argsort(part.ids, kind="stable")
        self._sorted = part.ids[self._order]
        self.first = np.zeros(len(done), bool)  # the same image twice is computed once
        self.first[np.unique(part.ids, return_index=True)[1]] = True

    def mark(self, ids: np.ndarray) -> None:
        """Rows that have been added, by whomever; the same image may be there several times."""
        first, last = (np.searchsorted(self._sorted, ids, side=side) for side in ("left", "right"))
        for start, end in zip(first.tolist(), last.tolist(), strict=True):
            self.done[self._order[start:end]] = True


def _ahead(
    entry: Entry, todo: list[_Todo], reader: ThreadPoolExecutor, look: Callable[[], None]
) -> Iterator[tuple[_Todo, np.ndarray, "Future[np.ndarray]"]]:
    """Batches claimed for this process, each read while the one before it is computed."""
    waiting: list[tuple[_Todo, np.ndarray, Future[np.ndarray]]] = []
    try:
        for one in todo:
            for places in _claimed(entry, one, look):
                waiting.append((one, places, reader.submit(_pixels, one.part, places, one.batch_size)))
                if len(waiting) > 1:
                    yield waiting.pop(0)
        while waiting:
            yield waiting.pop(0)
    finally:
        for one, places, _ in waiting:
            entry.release(one.part.ids[places])


def _claimed(entry: Entry, one: _Todo, look: Callable[[], None]) -> Iterator[np.ndarray]:
    """Places in the part whose images are now this process's to compute, a batch at a time."""
    size = one.batch_size
    if one.part.together:
        for start in range(0, len(one.done), size):
            places = np.arange(start, start + size)
            if one.done[places].all():
                continue
            taken = entry.claim(one.part.ids[places])
            look()  # claimed after somebody had finished it
            if taken.all() and not one.done[places].all():
                yield places
            else:
                entry.release(one.part.ids[places][taken])
        return
    batch: list[int] = []
    for start in range(0, len(one.done), size):
        places = start + np.flatnonzero(~one.done[start : start + size] & one.first[start : start + size])
        taken = entry.claim(one.part.ids[places])
        look()
        late = taken & one.done[places]
        entry.release(one.part.ids[places[late]])
        batch += places[taken & ~late].tolist()
        while len(batch) >= size:
            yield np.array(batch[:size])
            batch = batch[size:]
    if batch:
        yield np.array(batch)


def _pixels(part: Part, places: np.ndarray, batch_size: int) -> np.ndarray:
    """uint8 images of `places`, filled up to a whole batch with the last of them."""
    images = part.images[part.numbers[places]]
    if part.mirrored:
        images = images[:, :, ::-1]
    short = batch_size - len(places)
    return np.concatenate([images, np.repeat(images[-1:], short, axis=0)]) if short else np.ascontiguousarray(images)


def _stored(rows: np.ndarray, entry: Entry) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = rows.astype(entry.dtype)
    if entry.dtype == np.float16 and np.any(np.isinf(values) & np.isfinite(rows)):
        raise WrongUse(
            f"--cache-precision float16: some features exceed 65504 (up to {np.abs(rows).max():.3g}): leave it out"
        )
    return values
