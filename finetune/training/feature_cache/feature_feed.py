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
from finetune.data.dataset import Dataset, Split
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

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """The rows at int `numbers`, `[n, ...]`."""
        return self._held[numbers] if self._held is not None else self._entry.read(self._rows[numbers])


class CachedFeed:
    """A `finetune.training.loop.feed.Feed` of features.

    whole: the model of the run. above: its upper half.
    views: the training images' tables: the images, and their mirror images where they are mirrored at random.
    measured: the test images' features under batch statistics, in whole batches; None where the evaluation computes
    them from the images.
    """

    stacked = True

    def __init__(
        self,
        whole: keras.Model,
        above: keras.Model,
        config: RunConfig,
        dataset: Dataset,
        *,
        views: list[Table],
        tables: dict[str, Table],
        measured: Table | None,
        multiplications: int,
    ) -> None:
        self.whole, self.model, self.dataset = whole, above, dataset
        self._config = config
        self._views, self._tables, self._measured = views, tables, measured
        self._evaluators: dict[bool, Evaluator] = {}
        self._steps = _steps_per_call(above, config, multiplications)

    def training(self, *, epoch: int, start: int) -> Any:
        """(features `[steps, batch, ...]`, labels `[steps, batch]`) from batch `start` of an epoch on.

        The images and which of them are mirrored are as in `finetune.data.batches.training`."""
        labels, augmentation = self.dataset.train.labels, batches.augmentation(self._config)
        size = min(self._batch_size, len(labels))
        order = pipeline.epoch_order(len(labels), seed=self._config.seed, epoch=epoch)
        count = pipeline.steps_per_epoch(len(labels), self._batch_size)

        def pick(call: int) -> tuple[np.ndarray, ...]:
            numbers = range(start + call * self._steps, min(start + (call + 1) * self._steps, count))
            chosen = order[numbers[0] * size : (numbers[-1] + 1) * size]
            features = self._views[0].take(chosen)
            if len(self._views) > 1:
                mirrored = np.concatenate(
                    [
                        augmentation.mirrored(
                            size, pipeline.batch_draw(seed=self._config.seed, epoch=epoch, batch=number)
                        )
                        for number in numbers
                    ]
                )
                features[mirrored] = self._views[1].take(chosen[mirrored])
            shape = (len(numbers), size)
            return features.reshape(*shape, *features.shape[1:]), labels[chosen].reshape(shape)

        spec = tf.TensorSpec([None, size, *self.model.input_shape[1:]], self._dtype)
        calls = range(-(-(count - start) // self._steps))
        return pipeline.mapped(calls, pick, (spec, tf.TensorSpec([None, size], tf.int64)), _as_float32)

    def scoring(
        self, split: str, statistics: Statistics = "moving", *, on_batch: Callable[[], None] | None = None
    ) -> tuple[Evaluator, Any]:
        """As `Feed.scoring`. The results are those of the whole model."""
        from_images = statistics == "batch" and (split != "test" or self._measured is None)
        if from_images not in self._evaluators:
            self._evaluators[from_images] = Evaluator(KerasSubject(self.whole if from_images else self.model))
        evaluator = self._evaluators[from_images]
        evaluator.on_batch = on_batch
        images = getattr(self.dataset, split)
        if from_images:
            return evaluator, batches.evaluation(images, self._config)
        return evaluator, self._evaluation(images, split, statistics)

    def _evaluation(self, split: Split, name: str, statistics: Statistics) -> Any:
        size, starts = pipeline.eval_starts(len(split), self._batch_size)
        in_places = statistics == "batch" and self._measured is not self._tables[name]
        table = self._measured if in_places and self._measured is not None else self._tables[name]

        def pick(batch: int) -> tuple[np.ndarray, ...]:
            begin = int(starts[batch])
            numbers = np.arange(begin, begin + size)
            features = table.take(np.arange(batch * size, (batch + 1) * size) if in_places else numbers)
            return features, split.labels[numbers], numbers >= batch * size

        signature = (
            tf.TensorSpec([size, *self.model.input_shape[1:]], self._dtype),
            tf.TensorSpec([size], tf.int64),
            tf.TensorSpec([size], tf.bool),
        )
        return pipeline.mapped(range(len(starts)), pick, signature, _as_float32)

    @property
    def _batch_size(self) -> int:
        return int(batches.form(self._config)["batch_size"])

    @property
    def _dtype(self) -> Any:
        return tf.as_dtype(self._config.cache_precision)


def _as_float32(features: tf.Tensor, *others: tf.Tensor) -> tuple[tf.Tensor, ...]:
    return tf.cast(features, tf.float32), *others


def _steps_per_call(above: keras.Model, config: RunConfig, multiplications: int) -> int:
    """How many training steps one call runs: as many as keep the call short and its input small."""
    batch_size = int(batches.form(config)["batch_size"])
    values = int(np.prod(above.input_shape[1:])) * batch_size
    # A step computes three products of the size of an inference's.
    seconds = 5e-5 + 3 * multiplications * batch_size / _OPERATIONS
    return max(1, min(_MOST_STEPS, int(_CALL_SECONDS / seconds), _CALL_BYTES // (4 * values)))
