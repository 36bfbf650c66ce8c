"""An export tried out: the test set through its own runtime, image by image beside the run itself."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import BNInfo, Forward, Snapshot, Statistics
from finetune.data import batches, decoding
from finetune.data.dataset import Split
from finetune.data.lazy import LazyImages
from finetune.evaluation.evaluator import Batches, Evaluator, Pass
from finetune.inference.export.exportable import Source
from finetune.runs.evaluate import Opened

Run = Callable[[np.ndarray], np.ndarray]
"""An export in its runtime: what it takes, `[batch, ...]`, to logits `[batch, classes]`."""

AGREEMENT = 0.999
"""Of the classes chosen: below it an export is not the same classifier."""

_COMPARED = 1_000
"""Images whose logits are compared, and not just the class."""
_WARM, _TIMED, _SECONDS = 3, 30, 3.0
"""Calls of one image before the clock starts, while it runs, and how long it may run."""


@dataclass(frozen=True)
class Trial:
    """Over `images` test images: the accuracy, its difference to the run's on the same images, the share of images
    with the same class, the largest difference of a logit (over up to 1,000 images). bytes: of all files.
    milliseconds: the median of single images, after some to warm up.

    Class and logits are compared with the run on the same pixels: where an export takes photos as they are, with the
    run on photos that are decoded in full too."""

    images: int
    accuracy: float
    difference: float
    agreement: float
    logit_difference: float
    bytes: int
    milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """For `export --json`."""
        return {
            "images": self.images,
            "accuracy": self.accuracy,
            "difference": self.difference,
            "agreement": self.agreement,
            "largest_logit_difference": self.logit_difference,
            "bytes": self.bytes,
            "milliseconds_per_image": self.milliseconds,
        }


class Reference:
    """The run itself on its test images, at most `images` of them, evenly spread: what every export is held against.

    trial: its own row. decoded: that of the run on photos decoded in full, which evaluation lets libjpeg decode at a
    part of their size; None where exports do not take photos as they are.
    """

    def __init__(
        self, opened: Opened, source: Source, *, images: int | None = None, on_batch: Callable[[], None] | None = None
    ) -> None:
        test = opened.dataset.test
        if images is not None and images < len(test):
            test = test.take(np.linspace(0, len(test) - 1, images).round().astype(np.int64))
        self._test, self._config, self._source, self._on_batch = test, opened.config, source, on_batch
        self._size = source.path.stat().st_size
        run = KerasSubject(opened.trained.model).forward("moving")

        def logits(pixels: np.ndarray) -> np.ndarray:
            return np.asarray(run(pixels)[0])

        self._own = self._same = self._through(logits, batches.evaluation(test, opened.config))
        self.trial = self._row(self._own, self._own, self._size)
        self.decoded: Trial | None = None
        if source.with_preprocessing and isinstance(test.images, LazyImages):
            whole = replace(test, images=replace(test.images, draft=False))
            self._same = self._through(logits, batches.evaluation(whole, opened.config))
            self.decoded = self._row(self._same, self._own, self._size)

    def try_out(self, run: Run, *, size: int) -> Trial:
        """Score an export that takes what the source says; `size` is that of its files."""
        feed: Batches = batches.evaluation(self._test, self._config)
        if self._source.with_preprocessing:
            feed = _pixels(self._test, int(self._config.batch_size or 1))
        return self._row(self._through(run, feed), self._same, size)

    def _through(self, run: Run, feed: Batches) -> "_Outcome":
        recorded = _Recorded(run)
        passed = Evaluator(recorded, on_batch=self._on_batch).examine(recorded.watched(feed), "moving")
        assert recorded.first is not None
        return _Outcome(passed, np.concatenate(recorded.logits), _latency(run, recorded.first))

    def _row(self, mine: "_Outcome", same: "_Outcome", size: int) -> Trial:
        score = mine.passed.evaluation
        return Trial(
            images=score.examples,
            accuracy=score.accuracy,
            difference=(score.correct - self._own.passed.evaluation.correct) / score.examples,
            agreement=float(np.mean(mine.passed.predictions == same.passed.predictions)),
            logit_difference=float(np.abs(mine.logits.astype(np.float64) - same.logits).max()),
            bytes=size,
            milliseconds=round(mine.seconds * 1000, 3),
        )


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A pass, the first logits of it, and the seconds that a single image takes."""

    passed: Pass
    logits: np.ndarray
    seconds: float


class _Recorded:
    """Anything that runs, as a Subject for the one evaluation; keeps the first logits, and one image."""

    name = "export"
    layers: Sequence[BNInfo] = ()

    def __init__(self, run: Run) -> None:
        self.run = run
        self.logits: list[np.ndarray] = []
        self.first: np.ndarray | None = None
        self.outputs = 0
        self._counted: Any = None
        self._kept = 0

    def watched(self, feed: Batches) -> Batches:
        """The batches as they are; remembers which images of the one at hand are counted."""
        for images, labels, counted in feed:
            self._counted = np.asarray(counted)
            yield images, labels, counted

    def forward(self, statistics: Statistics) -> Forward:
        """Whatever the statistics: an export has one way."""

        def forward(images: Any) -> tuple[Any, Sequence[Any]]:
            given = np.asarray(images)
            logits = self.run(given)
            if self.first is None:
                self.first, self.outputs = given[:1], int(logits.shape[-1])
            if self._kept < _COMPARED:
                self.logits.append(logits[self._counted][: _COMPARED - self._kept])
                self._kept += len(self.logits[-1])
            return logits, ()

        return forward

    def snapshot(self) -> Snapshot:
        """There is nothing that moves."""
        return {}

    def restore(self, saved: Snapshot) -> None:
        """Nothing moves."""


def _pixels(split: Split, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(uint8 images, labels, counted) as they are: photos, decoded in full, one by one, for each has its own size."""
    images = split.images
    lazy = isinstance(images, LazyImages)
    step = 1 if lazy else batch_size
    for start in range(0, len(split), step):
        labels = split.labels[start : start + step]
        some = _decoded(images, start)[None] if isinstance(images, LazyImages) else images[start : start + step]
        yield np.ascontiguousarray(some), labels, np.ones(len(labels), bool)


def _decoded(images: LazyImages, position: int) -> np.ndarray:
    number = int(images.chosen[position])
    with decoding.naming(images.photos.place(number)), images.photos.open(number) as image:
        return decoding.whole(image)


def _latency(run: Run, image: np.ndarray) -> float:
    """Median seconds of one image."""
    for _ in range(_WARM):
        run(image)
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < _TIMED and (not taken or time.perf_counter() - begin < _SECONDS):
        start = time.perf_counter()
        run(image)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))
