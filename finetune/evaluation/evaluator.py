"""One evaluation: sums and counts over every image exactly once, divided once at the end.

Everything that reports an accuracy calls this module.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.batchnorm.statistics import Moments, pool
from finetune.batchnorm.subject import Forward, Runnable, Statistics
from finetune.evaluation import metrics
from finetune.evaluation.predictions import (
    AnyPredictions,
    LabelPredictions,
    join_predictions,
    predictions_from_logits,
)

Batches = Iterable[tuple[Any, Any, Any]]
"""(preprocessed images float32 `[batch, ...]`, labels int `[batch]` or 0/1 `[batch, labels]`, counted bool `[batch]`):
an image that only fills up a batch has `counted` False."""


@dataclass(frozen=True)
class Evaluation:
    """Counts over `examples` images; `loss_sum` is the summed cross-entropy in nats.

    A model whose classes are independent labels is counted by them too: `correct_labels` of `labels`, which is 0 for
    all others. The cross-entropy of its image is then the mean of the binary ones of its labels.

    by_class: of each class, as `metrics.class_counts`; empty where they were not counted.
    accuracy_sum, squares: of images that may have several labels, else None: the sum of `metrics.r_precision`, and of
    its squares. Then `correct` counts the images of which all labels are right, each decided at probability 0.5.
    average_precision: of each label, over all images of the evaluation; None of a label without images.
    """

    examples: int
    correct: int
    correct_top5: int
    loss_sum: float
    correct_labels: int = 0
    labels: int = 0
    by_class: tuple[tuple[int, int, int], ...] = ()
    accuracy_sum: float | None = None
    squares: float = 0.0
    average_precision: tuple[float | None, ...] = ()

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.accuracy_sum is not None

    @property
    def accuracy(self) -> float:
        """Top-1 as a fraction in [0, 1]; of several labels an image, the mean of `metrics.r_precision`."""
        return (self.correct if self.accuracy_sum is None else self.accuracy_sum) / self.examples

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats per image."""
        return self.loss_sum / self.examples

    @property
    def standard_error(self) -> float:
        """The standard error of the accuracy: of a mean over images, which is binomial where each is right or wrong."""
        mean_square = self.squares / self.examples if self.multi_label else self.accuracy
        return float(np.sqrt(max(mean_square - self.accuracy**2, 0.0) / self.examples))

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean recall over the classes that have images, as a fraction; None where they were not counted."""
        single = self.by_class and not self.multi_label
        return metrics.balanced_accuracy(metrics.class_scores(self.by_class)) if single else None

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 over the classes that have images, as a fraction; None where they were not counted."""
        return metrics.macro_f1(metrics.class_scores(self.by_class)) if self.by_class else None

    @property
    def label_accuracy(self) -> float | None:
        """The share of independent labels on the right side of probability 0.5 (Keras's `binary_accuracy`), if any."""
        return self.correct_labels / self.labels if self.labels else None

    @property
    def micro_f1(self) -> float | None:
        """F1 over all labels of all images together, each decided at probability 0.5; None of single labels."""
        return metrics.micro_f1(self.by_class) if self.multi_label else None

    @property
    def exact_match(self) -> float | None:
        """The share of images of which all labels are right; None of single labels."""
        return self.correct / self.examples if self.multi_label else None

    @property
    def map(self) -> float | None:
        """Mean average precision over the labels that have images; None where it was not measured."""
        return metrics.mean_average_precision(self.average_precision)

    def to_json(self) -> dict[str, Any]:
        """Counts and quotients, as they are written to the run's files."""
        written = ("accuracy", "loss", "examples", "correct", "standard_error")
        classes: tuple[str, ...] = ("balanced_accuracy", "macro_f1") if self.by_class else ()
        if self.multi_label:
            classes = ("map", "macro_f1", "micro_f1", "exact_match")
        labels = ("label_accuracy",) if self.labels else ()
        return {name: getattr(self, name) for name in written + classes + labels}


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over images, in their order.

    evaluation: the counts. images: the prediction of each counted image. moments: under batch statistics, the pooled
    statistics of each BN layer's inputs; otherwise empty. logits: float32 `[n, classes]` of the counted images,
    where they were asked for.
    """

    evaluation: Evaluation
    images: AnyPredictions
    moments: list[Moments]
    logits: np.ndarray | None = None


def count(logits: np.ndarray, labels: np.ndarray, *, per_label: bool = False) -> Evaluation:
    """Score logits `[batch, classes]` against labels int `[batch]`, or 0/1 `[batch, classes]`, in float64.

    `per_label` says that each logit is a yes or no of its own: then the loss is the binary cross-entropy, the mean over
    classes, as Keras's `binary_crossentropy` of one-hot labels.

    An image counts as correct in top-k when fewer than k other classes rank before its own. A class ranks before
    another if its logit is larger, or equal with a lower index; argmax breaks ties the same way. Images with NaN or
    infinite logits are never correct.
    """
    scores = logits.astype(np.float64)
    if labels.ndim == 2:
        return _count_several(scores, labels)
    own = scores[np.arange(len(labels)), labels][:, None]
    before = np.arange(scores.shape[1])[None, :] < labels[:, None]
    rank = np.sum((scores > own) | ((scores == own) & before), axis=1)
    finite = np.isfinite(scores).all(axis=1)
    top = scores.max(axis=1, keepdims=True)
    right = np.zeros(scores.shape, bool)
    if per_label:
        yes = np.arange(scores.shape[1])[None, :] == labels[:, None]
        losses = np.logaddexp(0, np.where(yes, -scores, scores)).mean(axis=1)
        right = np.equal(scores > 0, yes) & np.expand_dims(finite, 1)
    else:
        losses = (top + np.log(np.sum(np.exp(scores - top), axis=1, keepdims=True)) - own)[:, 0]
    return Evaluation(
        examples=len(labels),
        correct=int(np.sum((rank < 1) & finite)),
        correct_top5=int(np.sum((rank < 5) & finite)),
        loss_sum=float(losses.sum()),
        correct_labels=int(right.sum()),
        labels=right.size if per_label else 0,
        by_class=tuple(metrics.class_counts(labels, np.where(finite, scores.argmax(axis=1), -1), scores.shape[1])),
    )


def _count_several(scores: np.ndarray, labels: np.ndarray) -> Evaluation:
    """`count` of images that may have several labels."""
    finite, true = np.isfinite(scores).all(axis=1, keepdims=True), labels == 1
    right = np.equal(scores > 0, true) & finite
    each = np.where(finite[:, 0], metrics.r_precision(scores, labels), 0.0)
    return Evaluation(
        examples=len(labels),
        correct=int(right.all(axis=1).sum()),
        correct_top5=0,
        loss_sum=float(np.logaddexp(0, np.where(true, -scores, scores)).mean(axis=1).sum()),
        correct_labels=int(right.sum()),
        labels=right.size,
        by_class=tuple(metrics.label_counts((scores > 0) & finite, labels)),
        accuracy_sum=float(each.sum()),
        squares=float(np.sum(each**2)),
    )


def total(parts: Iterable[Evaluation]) -> Evaluation:
    """The sum of evaluations over disjoint images. An average precision is not of the parts, and is left out."""
    parts = list(parts)
    names = ("examples", "correct", "correct_top5", "loss_sum", "correct_labels", "labels", "squares")
    sums: dict[str, Any] = {name: sum(getattr(part, name) for part in parts) for name in names}
    by_class: Any = np.sum([part.by_class for part in parts], axis=0, dtype=np.int64).tolist()
    sums_of = [part.accuracy_sum for part in parts if part.accuracy_sum is not None]
    return Evaluation(**sums, by_class=tuple(map(tuple, by_class)), accuracy_sum=sum(sums_of) if sums_of else None)


class Evaluator:
    """Evaluates one subject, whose weights may change between calls. Each kind of statistics is traced once.

    Dropout is off, and nothing is updated. `label_offset` is the logit index of class 0 (1 for published heads with a
    background class). `on_batch` is called after every batch, for progress bars.
    """

    def __init__(self, subject: Runnable, *, label_offset: int = 0, on_batch: Callable[[], None] | None = None) -> None:
        self._subject = subject
        self._label_offset = label_offset
        self.on_batch = on_batch
        self._forward: dict[Statistics, Forward] = {}

    def evaluate(self, batches: Batches, statistics: Statistics = "moving") -> Evaluation:
        """Counts over all images; statistics `moving` is `is_training=False`, `batch` is `is_training=True`."""
        parts: list[Evaluation] = []
        images: list[AnyPredictions] = []
        for part, predicted, *_ in self._score(batches, statistics):
            parts.append(part)
            if part.multi_label:
                images.append(predicted)
        return _ranked(total(parts), join_predictions(images)) if images else total(parts)

    def examine(self, batches: Batches, statistics: Statistics, *, keep_logits: bool = False) -> Pass:
        """Evaluate, and keep the predictions and BN statistics of the same pass, and the logits if asked for."""
        parts: list[Evaluation] = []
        images: list[AnyPredictions] = []
        kept: list[np.ndarray] = []

        def moments() -> Iterator[Any]:
            for part, predicted, logits, layers in self._score(batches, statistics):
                parts.append(part)
                images.append(predicted)
                if keep_logits:
                    kept.append(logits)
                yield layers

        pooled = pool(moments())
        predictions = join_predictions(images)
        logits = np.concatenate(kept) if kept else None
        return Pass(_ranked(total(parts), predictions), predictions, pooled, logits)

    def _score(
        self, batches: Batches, statistics: Statistics
    ) -> Iterator[tuple[Evaluation, AnyPredictions, np.ndarray, Any]]:
        per_label = self._subject.per_label
        for logits, own, moments in self._logits(batches, statistics):
            scored = count(logits, own, per_label=per_label)
            yield scored, predictions_from_logits(logits, own, per_label=per_label), logits, moments

    def _logits(self, batches: Batches, statistics: Statistics) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        """(logits, labels, moments) of the counted images of each batch."""
        if statistics not in self._forward:
            self._forward[statistics] = self._subject.forward(statistics)
        run = self._forward[statistics]
        for images, labels, counted in batches:
            raw, moments = run(images)
            chosen = np.asarray(counted)
            own = np.asarray(labels)[chosen]
            yield np.asarray(raw)[chosen], own if own.ndim == 2 else own + self._label_offset, moments
            if self.on_batch:
                self.on_batch()


def _ranked(found: Evaluation, predictions: AnyPredictions) -> Evaluation:
    """`found` with the average precision of each label, where images may have several."""
    if not isinstance(predictions, LabelPredictions):
        return found
    ranked = metrics.average_precisions(predictions.logits, predictions.labels)
    return replace(found, average_precision=ranked)


@dataclass(frozen=True)
class Averaged:
    """`subject` with test-time augmentation: the class probabilities of several views of an image are averaged.

    views: what it is given to several batches of the subject's own input, one for each view; the first is the plainest.

    Its logits are log(mean p): p is the softmax of a view's logits. So anything that scores logits scores the averaged
    probabilities. Of independent labels, p are sigmoids, and the logits log(mean p / (1 - mean p)).

    The passes are several batches: under batch statistics each is normalised by its own. The BN statistics that
    `forward` returns are those of the first view.
    """

    subject: Runnable
    views: Callable[[Any], Sequence[Any]]

    def forward(self, statistics: Statistics) -> Forward:
        """As the subject's `forward`, run once for each view."""
        run = self.subject.forward(statistics)

        def averaged(given: Any) -> Any:
            passes = [run(view) for view in self.views(given)]
            logits = tf.stack([one for one, _ in passes])
            # log(e^a + e^b) without overflow, and without loss of digits where one of them is certain.
            if self.per_label:
                yes, no = (tf.math.reduce_logsumexp(tf.math.log_sigmoid(one), axis=0) for one in (logits, -logits))
                return yes - no, passes[0][1]
            total = tf.math.reduce_logsumexp(tf.nn.log_softmax(logits), axis=0)
            return total - tf.math.log(float(len(passes))), passes[0][1]

        return averaged

    @property
    def per_label(self) -> bool:
        """As the subject's."""
        return self.subject.per_label


def mirrored(images: Any) -> Sequence[Any]:
    """Images `[batch, height, width, channels]`, and their mirror images: the views of test-time flip.

    Mirroring preprocessed pixels equals preprocessing mirrored pixels if every pixel is scaled by its channel alone.
    All preprocessings do so, except possibly a custom one.
    """
    return images, tf.reverse(images, axis=[2])


@dataclass(frozen=True)
class Tempered:
    """`subject` with its logits divided by a temperature (`finetune.evaluation.temperature`)."""

    subject: Runnable
    temperature: float

    def forward(self, statistics: Statistics) -> Forward:
        """As the subject's `forward`."""
        run = self.subject.forward(statistics)

        def divided(images: Any) -> Any:
            logits, moments = run(images)
            return logits / self.temperature, moments

        return divided

    @property
    def per_label(self) -> bool:
        """As the subject's."""
        return self.subject.per_label
