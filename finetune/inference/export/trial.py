"""Re-evaluate an export: the test set through its own runtime, compared image by image with the run itself."""

import time
from dataclasses import dataclass, replace

import numpy as np

from finetune.batchnorm.statistics import KerasSubject
from finetune.data import batches
from finetune.data.lazy import LazyImages
from finetune.evaluation.evaluator import Batches, Evaluation, count, total
from finetune.evaluation.predictions import Predictions, predictions_from_logits
from finetune.evaluation.significance import compare_paired
from finetune.inference.export.exportable import Runtime, Source
from finetune.inference.export.exported import Trial, TrialOptions
from finetune.inference.export.input_feed import input_batches
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
        feed = input_batches(self._test, self._config, self._source)
        return self._compare(self._score(runtime, feed), self._same_pixels, size)

    def _score(self, runtime: Runtime, feed: Batches) -> "_Outcome":
        parts, classes, right, first = [], [], [], None
        kept: list[np.ndarray] = []
        for images, labels, counted in feed:
            given, chosen = np.asarray(images), np.asarray(counted)
            first = given[:1] if first is None else first
            scores, own = runtime(given)[chosen], np.asarray(labels)[chosen]
            parts.append(count(scores, own))
            predicted = predictions_from_logits(scores, own)
            # Of several labels an image, the labels themselves: an image agrees where all of them do.
            classes.append(predicted.classes if isinstance(predicted, Predictions) else scores > 0)
            right.append(predicted.outcomes)
            kept.append(scores[: max(0, _COMPARED - sum(len(one) for one in kept))])
            if self._on_batch is not None:
                self._on_batch()
        assert first is not None
        joined = [np.concatenate(one) for one in (classes, right, kept)]
        return _Outcome(total(parts), joined[0], joined[1], joined[2], _latency(runtime, first))

    def _compare(self, one: "_Outcome", same_pixels: "_Outcome", size: int) -> Trial:
        score, paired = one.score, compare_paired(one.right, self._own.right)
        return Trial(
            images=score.examples,
            accuracy=score.accuracy,
            difference=score.accuracy - self._own.score.accuracy,
            gained=paired.gained,
            lost=paired.lost,
            squares=paired.squares,
            agreement=float((one.classes == same_pixels.classes).reshape(score.examples, -1).all(axis=1).mean()),
            largest_logit_difference=float(np.abs(one.logits.astype(np.float64) - same_pixels.logits).max()),
            bytes=size,
            milliseconds_per_image=round(one.seconds * 1000, 3),
        )


@dataclass(frozen=True, eq=False)
class _Outcome:
    """The score over the test images, their predicted classes, whether each is right, the first logits, and the seconds
    of a single image."""

    score: Evaluation
    classes: np.ndarray
    right: np.ndarray
    logits: np.ndarray
    seconds: float


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
