"""Where the loop's batches come from, and the model that takes them."""

from collections.abc import Callable
from typing import Any, Protocol

import keras

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Statistics
from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.dataset import WHOLE, Dataset, Share
from finetune.evaluation.evaluator import Evaluator


class Feed(Protocol):
    """Batches of a run.

    whole: the model of the run. model: the part of it that the batches are for; the rest is frozen.
    stacked: whether a batch holds several steps.
    """

    whole: keras.Model
    model: keras.Model
    dataset: Dataset
    stacked: bool

    def training(self, *, epoch: int, start: int) -> Any:
        """(inputs, labels int64) from batch `start` of an epoch on, `[batch, ...]`, or stacked `[steps, batch, ...]`.

        A function of the config, the epoch and the batch's number."""

    def scoring(
        self, split: str, statistics: Statistics = "moving", *, on_batch: Callable[[], None] | None = None
    ) -> tuple[Evaluator, Any]:
        """What scores the whole model on the `validation` or `test` images under `statistics`, and the batches to give
        to it; `on_batch` is called after each."""


class ImageFeed:
    """Images, for the whole model. `share` is this worker's part of them; test images are scored by one worker."""

    stacked = False

    def __init__(self, model: keras.Model, dataset: Dataset, config: RunConfig, *, share: Share = WHOLE) -> None:
        self.whole = self.model = model
        self.dataset = dataset
        self._config, self._share = config, share
        self._evaluator = Evaluator(KerasSubject(model))

    def training(self, *, epoch: int, start: int) -> Any:
        """One batch at a time, as `finetune.data.batches.training`."""
        return batches.training(self.dataset.train, self._config, epoch=epoch, start=start, share=self._share)

    def scoring(
        self, split: str, statistics: Statistics = "moving", *, on_batch: Callable[[], None] | None = None
    ) -> tuple[Evaluator, Any]:
        """As `Feed.scoring`. The evaluator is one for all splits, so each kind of statistics is traced once a run."""
        self._evaluator.on_batch = on_batch
        share = WHOLE if split == "test" else self._share
        return self._evaluator, batches.evaluation(getattr(self.dataset, split), self._config, share=share)
