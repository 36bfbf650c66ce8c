"""Compute the rows an entry lacks, together with other processes that want them."""

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
"""The least number of images computed at once, and the number of pixels up to which small images are computed in
larger batches, of at most four times as many images. Products of many rows are faster; large images have enough."""
_LOOK = 0.1
"""Seconds between two reads of what other processes have computed."""
_ATTEMPTS = 2
"""How often damaged rows are computed again before the entry is given up."""


class DoesNotKeep(FinetuneError):
    """Rows read back from an entry differ from the rows just written."""


def batch_size(image_size: int) -> int:
    """Images computed at once. The number is fixed: an image's last bits depend on the size of its batch."""
    return max(_BATCH, min(4 * _BATCH, _PIXELS // image_size**2 // _BATCH * _BATCH))


@dataclass(frozen=True, eq=False)
class Part:
    """Images whose rows are wanted: `ids[i]` names the row of `images[numbers[i]]`, mirrored or not.

    together: the exact number of images of each batch, because they share batch statistics; None where an image's row
    does not depend on the others.
    """

    ids: np.ndarray
    images: Images
    numbers: np.ndarray
    mirrored: bool = False
    together: int | None = None


@dataclass
class Watch:
    """Callbacks of an extraction.

    progress: images done, and of all. stop: whether to stop. waiting: how many images another process computes. warn:
    a sentence about damaged rows.
    """

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
        """Rows. The graph is traced at the first call, so only where rows are missing."""
        if self._run is None:
            with kernels.products(parts(self._below)):
                run = forward(self._below, self._statistics, moments=False)
            prepare = tf.function(lambda pixels: pipeline.prepared(pixels, self._image_size, self._preprocessing))
            self._run = lambda pixels: run(prepare(pixels))[0]
        return np.asarray(self._run(tf.constant(images)))


def fill(entry: Entry, network: Network, wanted: list[Part], watch: Watch) -> int:
    """Make `entry` hold an intact row for every image of `wanted`; returns how many rows this process computed.

    Damaged rows are reported once and computed again. Raises Interrupted where `watch` says to stop: finished rows stay
    and are not computed again. Also WrongUse where a value does not fit float16, OSError where the disk is full, and
    DoesNotKeep.
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
                "were written: they are computed again. If this happens again, check the disk"
            )
        computed += _fill(entry, network, wanted, watch)
    if len(entry.damaged(ids)):
        raise DoesNotKeep(f"{entry.path} does not keep what is written to it: check the disk")
    return computed


def _fill(entry: Entry, network: Network, wanted: list[Part], watch: Watch) -> int:
    """Compute a row for every image that has none, intact or not."""
    todo = [_Todo(part, entry.find(part.ids) >= 0, part.together or network.batch_size) for part in wanted]
    total, computed = sum(len(one.done) for one in todo), 0
    seen = len(entry)
    reported = False

    def read_new() -> None:
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
            for one, places, pixels in _ahead(entry, todo, reader, read_new):
                rows = network(pixels.result())[: len(places)]
                if kept is not None:
                    kept.result()
                kept = writer.submit(keep, one.part.ids[places], rows)
                computed += len(places)
                read_new()
                report()
            if kept is not None:
                kept.result()
            read_new()
            report()
            left = sum(int((~one.done).sum()) for one in todo)
            if left:
                if not reported:
                    watch.waiting(left)
                    reported = True
                time.sleep(_LOOK)
    return computed


class _Todo:
    """The images of a part, and which of them have their row."""

    def __init__(self, part: Part, done: np.ndarray, batch_size: int) -> None:
        self.part, self.done, self.batch_size = part, done, batch_size
        self._order = np.argsort(part.ids, kind="stable")
        self._sorted = part.ids[self._order]
        self.first = np.zeros(len(done), bool)  # the same image twice is computed once
        self.first[np.unique(part.ids, return_index=True)[1]] = True

    def mark(self, ids: np.ndarray) -> None:
        """Mark images whose rows have been added, by any process; the same image may occur several times."""
        first, last = (np.searchsorted(self._sorted, ids, side=side) for side in ("left", "right"))
        for start, end in zip(first.tolist(), last.tolist(), strict=True):
            self.done[self._order[start:end]] = True


def _ahead(
    entry: Entry, todo: list[_Todo], reader: ThreadPoolExecutor, read_new: Callable[[], None]
) -> Iterator[tuple[_Todo, np.ndarray, "Future[np.ndarray]"]]:
    """Batches claimed by this process. Each is read while the one before it is computed."""
    waiting: list[tuple[_Todo, np.ndarray, Future[np.ndarray]]] = []
    try:
        for one in todo:
            for places in _claimed(entry, one, read_new):
                waiting.append((one, places, reader.submit(_pixels, one.part, places, one.batch_size)))
                if len(waiting) > 1:
                    yield waiting.pop(0)
        while waiting:
            yield waiting.pop(0)
    finally:
        for one, places, _ in waiting:
            entry.release(one.part.ids[places])


def _claimed(entry: Entry, one: _Todo, read_new: Callable[[], None]) -> Iterator[np.ndarray]:
    """Places in the part whose images this process now computes, a batch at a time."""
    size = one.batch_size
    if one.part.together:
        for start in range(0, len(one.done), size):
            places = np.arange(start, start + size)
            if one.done[places].all():
                continue
            taken = entry.claim(one.part.ids[places])
            read_new()  # another process may have finished it before the claim
            if taken.all() and not one.done[places].all():
                yield places
            else:
                entry.release(one.part.ids[places][taken])
        return
    batch: list[int] = []
    for start in range(0, len(one.done), size):
        places = start + np.flatnonzero(~one.done[start : start + size] & one.first[start : start + size])
        taken = entry.claim(one.part.ids[places])
        read_new()
        late = taken & one.done[places]
        entry.release(one.part.ids[places[late]])
        batch += places[taken & ~late].tolist()
        while len(batch) >= size:
            yield np.array(batch[:size])
            batch = batch[size:]
    if batch:
        yield np.array(batch)


def _pixels(part: Part, places: np.ndarray, batch_size: int) -> np.ndarray:
    """uint8 images of `places`; a short batch is filled up with its last image."""
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
