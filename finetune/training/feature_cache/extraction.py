"""Compute the rows an entry lacks, together with other processes that want them."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np
import tensorflow as tf

from finetune.batchnorm.statistics import forward
from finetune.batchnorm.subject import Statistics
from finetune.batchnorm.surgery import parts
from finetune.data import pipeline
from finetune.data.dataset import Images
from finetune.data.geometry import CENTRE, Geometry
from finetune.data.preprocessing import AnyPreprocessing
from finetune.errors import FinetuneError, Interrupted, WrongUse
from finetune.text import ImageSize, shape_of
from finetune.training.feature_cache.entry import Entry, found
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


def batch_size(image_size: ImageSize) -> int:
    """Images computed at once. The number is fixed: an image's last bits depend on the size of its batch."""
    shape = shape_of(image_size)
    return max(_BATCH, min(4 * _BATCH, _PIXELS // (shape.height * shape.width) // _BATCH * _BATCH))


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


@dataclass(frozen=True)
class Progress:
    """Callbacks of the work.

    say: a sentence. progress: images done, and of all. stop: whether to stop. warn: a sentence about damaged rows.
    """

    say: Callable[[str], None]
    progress: Callable[[int, int], None]
    stop: Callable[[], bool]
    warn: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Network:
    """The lower half of a model from uint8 images, `[n, height, width, channels]`, to rows."""

    below: keras.Model
    statistics: Statistics
    image_size: ImageSize
    preprocessing: AnyPreprocessing
    geometry: Geometry = CENTRE

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Rows. The graph is traced at the first call, so only where rows are missing."""
        return np.asarray(self._run(tf.constant(images)))

    @cached_property
    def _run(self) -> Callable[[tf.Tensor], tf.Tensor]:
        with kernels.products(parts(self.below)):
            run = forward(self.below, self.statistics, moments=False)
        form = self.image_size, self.preprocessing, self.geometry
        prepare = tf.function(lambda pixels: pipeline.prepared(pixels, *form))
        return lambda pixels: run(prepare(pixels))[0]


def fill(entry: Entry, network: Network, wanted: list[Part], progress: Progress) -> int:
    """Make `entry` hold an intact row for every image of `wanted`; returns how many rows this process computed.

    Damaged rows are reported once and computed again. Raises Interrupted where `progress` says to stop: finished rows
    stay and are not computed again. Also WrongUse where a value does not fit float16, OSError where the disk is full,
    and DoesNotKeep.
    """
    ids = np.concatenate([part.ids for part in wanted])
    computed, attempts = _fill(entry, network, wanted, progress), 0
    while len(damaged := entry.damaged(ids)):
        if attempts == _ATTEMPTS:
            raise DoesNotKeep(f"{entry.path} does not keep what is written to it: check the disk")
        entry.disown(damaged)
        if not attempts:
            progress.warn(
                f"features: {len(damaged):,} of {len(np.unique(ids)):,} rows of {entry.path} have changed since they "
                "were written: they are computed again. If this happens again, check the disk"
            )
        computed, attempts = computed + _fill(entry, network, wanted, progress), attempts + 1
    return computed


def _fill(entry: Entry, network: Network, wanted: list[Part], progress: Progress) -> int:
    """Compute a row for every image that has none, intact or not."""
    todo, computed, waits = _Todo(entry, wanted, batch_size(network.image_size)), 0, False

    def report() -> None:
        todo.read_new()
        progress.progress(int(todo.done.sum()), len(todo.done))
        if progress.stop():
            raise Interrupted("stopped while features were computed")

    try:
        with ThreadPoolExecutor(2, thread_name_prefix="features") as pool:  # one reads ahead, one writes
            while not todo.done.all():
                kept: Future[None] | None = None
                for batch, pixels in _ahead(todo.claimed(), pool, todo.pixels):
                    rows = network(pixels.result())[: len(batch)]
                    if kept is not None:
                        kept.result()
                    kept = pool.submit(todo.keep, batch, rows)
                    computed += len(batch)
                    report()
                if kept is not None:
                    kept.result()
                report()
                if left := int((~todo.done).sum()):
                    words = f"features of the last {left:,} images are being computed by another process: waiting"
                    if not waits:
                        progress.say(words)
                    waits = True
                    time.sleep(_LOOK)
    except BaseException:
        entry.release(todo.names)  # the entry may stay open: other processes do not wait for this one
        raise
    return computed


class _Todo:
    """The different images of all parts, in their order: their `names`, and which are `done`: have their row."""

    def __init__(self, entry: Entry, wanted: list[Part], batch_size: int) -> None:
        self._entry, self._wanted, self._size, self._seen = entry, wanted, batch_size, len(entry)
        ids = np.concatenate([part.ids for part in wanted])
        first = np.sort(np.unique(ids, return_index=True)[1])  # the same image twice is computed once
        self.names = ids[first]
        self.done = entry.find(self.names) >= 0
        self._order = np.argsort(self.names)
        self._part = np.repeat(np.arange(len(wanted)), [len(part.ids) for part in wanted])[first]
        self._number = np.concatenate([part.numbers for part in wanted])[first]

    def read_new(self) -> None:
        """Mark images whose rows have been added, by any process."""
        new = self._entry.ids(self._seen)
        self._seen += len(new)
        places = found(new, self.names, self._order)
        self.done[places[places >= 0]] = True

    def claimed(self) -> Iterator[np.ndarray]:
        """Batches, each of one part, that this process now computes: places in `names`.

        Images that share batch statistics are claimed by the first of their batch.
        """
        for number, part in enumerate(self._wanted):
            unit, size = part.together or 1, part.together or self._size
            units = np.flatnonzero(self._part == number).reshape(-1, unit)
            units = units[~self.done[units].all(axis=1)]
            batch: list[int] = []
            for start in range(0, len(units), size // unit):
                some = units[start : start + size // unit]
                taken = self._entry.claim(self.names[some[:, 0]])
                self.read_new()  # another process may have finished them before the claim
                late = self.done[some].all(axis=1)
                self._entry.release(self.names[some[taken & late, 0]])
                batch += some[taken & ~late].reshape(-1).tolist()
                while len(batch) >= size:
                    yield np.array(batch[:size])
                    batch = batch[size:]
            if batch:
                yield np.array(batch)

    def pixels(self, batch: np.ndarray) -> np.ndarray:
        """uint8 images of a batch; a short one is filled up with its last image."""
        part = self._wanted[self._part[batch[0]]]
        images = part.images[self._number[batch]]
        if part.mirrored:
            images = images[:, :, ::-1]
        short = (part.together or self._size) - len(batch)
        return (
            np.concatenate([images, np.repeat(images[-1:], short, axis=0)]) if short else np.ascontiguousarray(images)
        )

    def keep(self, batch: np.ndarray, rows: np.ndarray) -> None:
        """Write the rows of a batch, and give up its claims."""
        names = self.names[batch]
        self._entry.append(names, _stored(rows, self._entry))
        self._entry.release(names)


def _ahead(
    batches: Iterator[np.ndarray], pool: ThreadPoolExecutor, read: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[np.ndarray, "Future[np.ndarray]"]]:
    """Each of `batches` with its pixels, which are read while the batch before it is computed."""
    waiting: deque[tuple[np.ndarray, Future[np.ndarray]]] = deque()
    for batch in batches:
        waiting.append((batch, pool.submit(read, batch)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _stored(rows: np.ndarray, entry: Entry) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = rows.astype(entry.dtype)
    if entry.dtype == np.float16 and np.any(np.isinf(values) & np.isfinite(rows)):
        raise WrongUse(
            f"--cache-precision float16: some features exceed 65504 (up to {np.abs(rows).max():.3g}): leave it out"
        )
    return values
