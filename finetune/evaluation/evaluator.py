"""One evaluation: sums and counts over every image exactly once, divided once, at the end.

Everything that reports an accuracy calls this.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.batchnorm.statistics import Moments, pool
from finetune.batchnorm.subject import Forward, Statistics, Subject
from finetune.evaluation import predictions
from finetune.evaluation.predictions import Predictions

Batches = Iterable[tuple[Any, Any, Any]]
"""(preprocessed images, labels, counted) of `finetune.data.pipeline.eval_batches`."""


@dataclass(frozen=True)
class Evaluation:
    """Counts over `examples` images; `loss_sum` is the summed cross-entropy in nats."""

    examples: int
    correct: int
    correct_top5: int
    loss_sum: float

    @property
    def accuracy(self) -> float:
        """Top-1 as a fraction in [0, 1]."""
        return self.correct / self.examples

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats per image."""
        return self.loss_sum / self.examples

    @property
    def standard_error(self) -> float:
        """Of the accuracy, binomial."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.examples))

    def to_json(self) -> dict[str, Any]:
        """Counts and quotients, for the run's files."""
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "examples": self.examples,
            "correct": self.correct,
            "standard_error": self.standard_error,
        }


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over images, in their order: the counts, and what was said of each counted image; with batch statistics
    also what each BN layer saw, pooled."""

    evaluation: Evaluation
    images: Predictions
    moments: list[Moments]

    @property
    def labels(self) -> np.ndarray:
        """int64 `[examples]`."""
        return self.images.labels

    @property
    def predictions(self) -> np.ndarray:
        """int64 `[examples]`, -1 where a logit is not finite."""
        return self.images.classes

    @property
    def correct(self) -> np.ndarray:
        """bool `[examples]`."""
        return self.images.correct


def count(logits: np.ndarray, labels: np.ndarray) -> Evaluation:
    """Score logits `[batch, classes]` against labels int `[batch]`, in float64.

    An image counts as correct in top-k when fewer than k other logits are larger and none of the larger or equal
    ones comes first; so ties go to the lower class index, as argmax does. NaN logits are never correct.
    """
    scores = logits.astype(np.float64)
    own = scores[np.arange(len(labels)), labels][:, None]
    before = np.arange(scores.shape[1])[None, :] < labels[:, None]
    rank = np.sum((scores > own) | ((scores == own) & before), axis=1)
    finite = np.isfinite(scores).all(axis=1)
    top = scores.max(axis=1, keepdims=True)
    losses = (top + np.log(np.sum(np.exp(scores - top), axis=1, keepdims=True)) - own)[:, 0]
    return Evaluation(
        examples=len(labels),
        correct=int(np.sum((rank < 1) & finite)),
        correct_top5=int(np.sum((rank < 5) & finite)),
        loss_sum=float(losses.sum()),
    )


def total(parts: Iterable[Evaluation]) -> Evaluation:
    """The sum of evaluations over disjoint images."""
    rows = [(part.examples, part.correct, part.correct_top5, part.loss_sum) for part in parts]
    examples, correct, top5, loss = (sum(column) for column in zip(*rows, strict=True))
    return Evaluation(examples, correct, top5, loss)


class Evaluator:
    """Evaluates one subject, whose weights may change between calls; each kind of statistics is traced once.

    Dropout is off, nothing is updated. `label_offset` is the logit of class 0 (1 for published heads with a
    background class). `on_batch` is called after every batch, for progress bars.
    """

    def __init__(self, subject: Subject, *, label_offset: int = 0, on_batch: Callable[[], None] | None = None) -> None:
        self._subject = subject
        self._label_offset = label_offset
        self.on_batch = on_batch
        self._forward: dict[Statistics, Forward] = {}

    def evaluate(self, batches: Batches, statistics: Statistics = "moving") -> Evaluation:
        """`is_training=False` is `moving`, `is_training=True` is `batch`."""
        return total(part for part, *_ in self._score(batches, statistics))

    def measure(self, batches: Batches) -> tuple[Evaluation, list[Moments]]:
        """Evaluate with batch statistics and pool, in the same pass, what each BN layer saw."""
        passed = self.examine(batches, "batch")
        return passed.evaluation, passed.moments

    def examine(self, batches: Batches, statistics: Statistics) -> Pass:
        """Evaluate, and keep what the same pass gives besides."""
        parts: list[Evaluation] = []
        images: list[Predictions] = []

        def moments() -> Iterator[Any]:
            for part, said, layers in self._score(batches, statistics):
                parts.append(part)
                images.append(said)
                yield layers

        pooled = pool(moments())
        return Pass(total(parts), predictions.joined(images), pooled)

    def _score(self, batches: Batches, statistics: Statistics) -> Iterator[tuple[Evaluation, Predictions, Any]]:
        if statistics not in self._forward:
            self._forward[statistics] = self._subject.forward(statistics)
        run = self._forward[statistics]
        for images, labels, counted in batches:
            raw, moments = run(images)
            chosen = np.asarray(counted)
            logits, own = np.asarray(raw)[chosen], np.asarray(labels)[chosen] + self._label_offset
            yield count(logits, own), predictions.of(logits, own), moments
            if self.on_batch:
                self.on_batch()
