"""Re-evaluate an export: the test set through its own runtime, compared image by image with the run itself."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Forward, Statistics
from finetune.data import batches, decoding
from finetune.data.dataset import Split
from finetune.data.lazy import LazyImages
from finetune.evaluation.evaluator import Batches, Evaluator, Pass
from finetune.inference.export.exportable import Source
from finetune.inference.export.exported import Runtime, Trial, TrialOptions
from finetune.runs.model import Opened

_COMPARED = 1_000
"""Images whose logits are compared, and not only their class."""
_WARM, _TIMED, _SECONDS = 3, 30, 3.0
"""Calls with one image before the clock starts and while it runs; the most seconds it may run."""


class Reference:
    """The run itself on its test images, with which every export is compared.

    trial: of the run itself. decoded: of the run on photos decoded in full. Evaluation lets libjpeg decode large photos
    at a fraction of their size, but exports that take photos as they are get them in full. None for other exports.
    """

    def __init__(self, opened: Opened, source: Source, options: TrialOptions) -> None:
        test = opened.dataset.test
        if options.images is not None and options.images < len(test):
            test = test.take(np.linspace(0, len(test) - 1, options.images).round().astype(np.int64))
        self._test, self._config, self._source = test, opened.config, source
        self._on_batch = options.on_batch
        size = source.path.stat().st_size
        run = KerasSubject(opened.trained.model).forward("moving")

        def logits(pixels: np.ndarray) -> np.ndarray:
            return np.asarray(run(pixels)[0])

        self._own = self._same_pixels = self._score(logits, batches.evaluation(test, opened.config))
        self.trial = self._compare(self._own, self._own, size)
        self.decoded: Trial | None = None
        if source.with_preprocessing and isinstance(test.images, LazyImages):
            whole = replace(test, images=replace(test.images, draft=False))
            self._same_pixels = self._score(logits, batches.evaluation(whole, opened.config))
            self.decoded = self._compare(self._same_pixels, self._own, size)

    def try_out(self, runtime: Runtime, *, size: int) -> Trial:
        """Score an export of the source. `size` is that of its files, in bytes."""
        feed: Batches = batches.evaluation(self._test, self._config)
        if self._source.with_preprocessing:
            feed = _pixels(self._test, int(self._config.batch_size or 1))
        return self._compare(self._score(runtime, feed), self._same_pixels, size)

    def _score(self, runtime: Runtime, feed: Batches) -> "_Outcome":
        recorded = _Recorded(runtime)
        passed = Evaluator(recorded, on_batch=self._on_batch).examine(recorded.watched(feed), "moving")
        assert recorded.first is not None
        return _Outcome(passed, np.concatenate(recorded.logits), _latency(runtime, recorded.first))

    def _compare(self, one: "_Outcome", same_pixels: "_Outcome", size: int) -> Trial:
        score = one.passed.evaluation
        return Trial(
            images=score.examples,
            accuracy=score.accuracy,
            difference=(score.correct - self._own.passed.evaluation.correct) / score.examples,
            agreement=float(np.mean(one.passed.images.classes == same_pixels.passed.images.classes)),
            logit_difference=float(np.abs(one.logits.astype(np.float64) - same_pixels.logits).max()),
            bytes=size,
            milliseconds=round(one.seconds * 1000, 3),
        )


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A pass over the test images, its first logits, and the seconds that a single image takes."""

    passed: Pass
    logits: np.ndarray
    seconds: float


class _Recorded:
    """A runtime in the form that the evaluator takes. Keeps the first logits, and one image."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.logits: list[np.ndarray] = []
        self.first: np.ndarray | None = None
        self._counted: Any = None
        self._kept = 0

    def watched(self, feed: Batches) -> Batches:
        """The same batches; remembers which images of the current one are counted."""
        for images, labels, counted in feed:
            self._counted = np.asarray(counted)
            yield images, labels, counted

    def forward(self, statistics: Statistics) -> Forward:
        """The same for all `statistics`: an export has one mode only."""

        def forward(images: Any) -> tuple[Any, Sequence[Any]]:
            given = np.asarray(images)
            logits = self.runtime(given)
            if self.first is None:
                self.first = given[:1]
            if self._kept < _COMPARED:
                self.logits.append(logits[self._counted][: _COMPARED - self._kept])
                self._kept += len(self.logits[-1])
            return logits, ()

        return forward


def _pixels(split: Split, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(uint8 images, labels, counted) at their own size. Photos are decoded in full, one a batch: sizes differ."""
    images, labels = split.images, split.labels
    if isinstance(images, LazyImages):
        for position, number in enumerate(map(int, images.chosen)):
            with decoding.naming(images.photos.place(number)), images.photos.open(number) as image:
                pixels = decoding.whole(image)[None]
            yield np.ascontiguousarray(pixels), labels[position : position + 1], np.ones(1, bool)
        return
    for start in range(0, len(split), batch_size):
        part = slice(start, start + batch_size)
        yield np.ascontiguousarray(images[part]), labels[part], np.ones(len(labels[part]), bool)


def _latency(runtime: Runtime, image: np.ndarray) -> float:
    """Median seconds of one image."""
    for _ in range(_WARM):
        runtime(image)
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < _TIMED and (not taken or time.perf_counter() - begin < _SECONDS):
        start = time.perf_counter()
        runtime(image)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))
