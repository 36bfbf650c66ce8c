"""A feed of features for the upper half of a model: the same batches in the same order as those of images."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Statistics
from finetune.config import RunConfig
from finetune.data import batches, pipeline
from finetune.data.dataset import Dataset
from finetune.evaluation.evaluator import Evaluator
from finetune.training.feature_cache.entry import Entry

_OPERATIONS = 5e10
"""Multiplications that two cores do in a second: a rough figure, to tell milliseconds from seconds."""
_CALL_SECONDS = 0.1
"""The longest time of a call of several training steps, in seconds: a run stops between two calls."""
_MOST_STEPS = 64
_CALL_BYTES = 2**24
"""Largest size of the features passed to one call."""


class Table:
    """Rows in the order of a split, read from the disk when needed, or held in memory."""

    def __init__(self, entry: Entry, rows: np.ndarray, *, in_memory: bool) -> None:
        self._entry, self._rows = entry, rows
        self._held = entry.read(rows) if in_memory else None

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """The rows at int `numbers`, `[n, ...]`."""
        return self._held[numbers] if self._held is not None else self._entry.read(self._rows[numbers])


class CachedFeed:
    """A `finetune.training.loop.train.Feed` of features.

    whole: the model of the run. above: its upper half, of so many `multiplications` an image.
    training_rows: the training images, and after them their mirror images where they are mirrored at random.
    tables: by split and statistics, the rows of its evaluation's batches, one after another. What is not there is
    scored from the images.
    """

    stacked = True

    def __init__(
        self,
        whole: keras.Model,
        above: keras.Model,
        config: RunConfig,
        dataset: Dataset,
        training_rows: Table,
        tables: dict[tuple[str, Statistics], Table],
        multiplications: int,
    ) -> None:
        self.whole, self.model, self.dataset = whole, above, dataset
        self._config, self._batch_size = config, int(batches.form(config)["batch_size"])
        self._training_rows, self._tables = training_rows, tables
        self._evaluators: dict[bool, Evaluator] = {}
        self._steps = _steps_per_call(above, self._batch_size, multiplications)

    def training(self, *, epoch: int, start: int) -> Any:
        """(features `[steps, batch, ...]`, labels `[steps, batch]`) from batch `start` of an epoch on.

        The images and which of them are mirrored are as in `finetune.data.batches.training`."""
        labels, augmentation, seed = self.dataset.train.labels, batches.augmentation(self._config), self._config.seed
        size = min(self._batch_size, len(labels))
        order = batches.epoch_of(self._config, epoch).order(labels)
        count = pipeline.steps_per_epoch(len(labels), self._batch_size)

        def pick(call: int) -> tuple[np.ndarray, ...]:
            numbers = range(start + call * self._steps, min(start + (call + 1) * self._steps, count))
            rows = chosen = order[numbers[0] * size : (numbers[-1] + 1) * size]
            if augmentation.flip:
                draws = (pipeline.batch_draw(seed=seed, epoch=epoch, batch=number) for number in numbers)
                rows = chosen + len(labels) * np.concatenate([augmentation.mirrored(size, draw) for draw in draws])
            features, shape = self._training_rows.take(rows), (len(numbers), size)
            return features.reshape(*shape, *features.shape[1:]), labels[chosen].reshape(*shape, *labels.shape[1:])

        calls = range(-(-(count - start) // self._steps))
        return pipeline.mapped(
            calls, pick, self._signature((None, size), pipeline.label_spec(labels, None, size)), _as_float32
        )

    def scoring(
        self,
        split: str,
        statistics: Statistics = "moving",
        *,
        shared: bool = False,
        on_batch: Callable[[], None] | None = None,
    ) -> tuple[Evaluator, Any]:
        """As `Feed.scoring`. The results are those of the whole model; there is one worker."""
        table, examples = self._tables.get((split, statistics)), getattr(self.dataset, split)
        cached = table is not None
        if cached not in self._evaluators:
            self._evaluators[cached] = Evaluator(KerasSubject(self.model if cached else self.whole))
        evaluator = self._evaluators[cached]
        evaluator.on_batch = on_batch
        if table is None:
            return evaluator, batches.evaluation(examples, self._config)
        size, starts = pipeline.eval_starts(len(examples), self._batch_size)

        def pick(batch: int) -> tuple[np.ndarray, ...]:
            places = np.arange(batch * size, (batch + 1) * size)
            chosen = starts[batch] + np.arange(size)
            return table.take(places), examples.labels[chosen], chosen >= batch * size

        signature = self._signature((size,), pipeline.label_spec(examples.labels, size), tf.TensorSpec([size], tf.bool))
        return evaluator, pipeline.mapped(range(len(starts)), pick, signature, _as_float32)

    def _signature(self, shape: tuple[int | None, ...], *others: tf.TensorSpec) -> tuple[tf.TensorSpec, ...]:
        """Of features in the given `shape` of images, and of `others`."""
        precision = tf.as_dtype(self._config.cache_precision)
        features = tf.TensorSpec([*shape, *self.model.input_shape[1:]], precision)
        return features, *others


def _as_float32(features: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
    return tf.cast(features, tf.float32), *others


def _steps_per_call(above: keras.Model, batch_size: int, multiplications: int) -> int:
    """How many training steps one call runs: as many as keep the call short and its input small."""
    values = int(np.prod(above.input_shape[1:])) * batch_size
    # A step computes three products of the size of an inference's.
    seconds = 5e-5 + 3 * multiplications * batch_size / _OPERATIONS
    return max(1, min(_MOST_STEPS, int(_CALL_SECONDS / seconds), _CALL_BYTES // (4 * values)))
