"""A Keras callback that watches BatchNorm while a model of the user's own trains."""

import warnings
from typing import Any

import keras
import numpy as np

from finetune.batchnorm.statistics import recalibrate
from finetune.batchnorm.subject import Subject
from finetune.data.batches import EvalSet
from finetune.diagnosis.evidence import better
from finetune.diagnosis.measure import examine
from finetune.diagnosis.targets.in_memory import Given, PythonCommands, facts_of, given_data, in_place
from finetune.diagnosis.verdict import Verdict, judge
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation.evaluator import Evaluator

IMAGES = 500
"""Training images of one look, by default."""


class BatchNormWarning(UserWarning):
    """BatchNorm is unhealthy, by cause; `BatchNormMonitor` gives it."""


class BatchNormMonitor(keras.callbacks.Callback):  # type: ignore[misc]
    """Diagnose the model's BatchNorm during `fit`, on a few training images and, where given, test images.

    Each look adds to the epoch's logs, and so to the history: `bn_drift`, the median over layers of the distance of the
    moving mean from the data's, in standard deviations; and `bn_false`, `bn_true`, `bn_recalibrated`: accuracy on the
    training images with moving, batch and recalibrated statistics, in [0, 1]. A cause warns once, by name. `verdict` is
    that of the last look. The model is measured in place, between two epochs, and its statistics are put back.

    Args:
        train: Training images, as `finetune.diagnose_bn` takes them. Each set is drawn once.
        test: Test images.
        every: Epochs from one look to the next.
        images: How many training images a look takes.
        preprocess: As in `diagnose_bn`.
        stop: End the training where BatchNorm is unhealthy.
        recalibrate: At the end of the training, measure the moving statistics on the training images. They are put
            back where that makes the model worse.

    Raises:
        FinetuneError: The model has no BatchNormalization, or the data does not fit it.
    """

    def __init__(
        self,
        train: Any,
        *,
        test: Any = None,
        every: int = 1,
        images: int = IMAGES,
        preprocess: Any = None,
        stop: bool = False,
        recalibrate: bool = False,
    ) -> None:
        super().__init__()
        if every < 1:
            raise WrongUse(f"every is {every!r}: expected a whole number of epochs from 1")
        self.verdict: Verdict | None = None
        self._given = Given(test, train, images, preprocess)
        self._every, self._stop, self._recalibrate = every, stop, recalibrate
        self._warned: set[str] = set()
        self._subject: Subject | None = None
        self._sets: tuple[EvalSet, EvalSet] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at every `every`-th epoch."""
        if (epoch + 1) % self._every:
            return
        subject, test, train = self._opened()
        found = examine(subject, test=test, train=train, facts=facts_of(self.model), extent="quick")
        self.verdict = judge(found, PythonCommands("model"))
        if logs is not None:
            scores = found.train
            logs["bn_drift"] = float(np.median([layer.mean_shift for layer in found.layers]))
            logs["bn_false"] = scores.is_training_false.accuracy
            logs["bn_true"] = scores.is_training_true.accuracy
            logs["bn_recalibrated"] = scores.recalibrated.accuracy
        if self.verdict.exit_code != 3:
            return
        if self.verdict.cause not in self._warned:
            self._warned.add(self.verdict.cause)
            warnings.warn(
                f"epoch {epoch + 1}: {self.verdict.cause}: {self.verdict.sentence}", BatchNormWarning, stacklevel=2
            )
        if self._stop:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Recalibrate, if asked to."""
        if not self._recalibrate:
            return
        subject, test, train = self._opened()
        evaluator, before = Evaluator(subject), subject.snapshot()
        scored = evaluator.evaluate(test.batches())
        try:
            recalibrate(subject, (batch for batch, *_ in train.batches()))
            worse = better(scored, evaluator.evaluate(test.batches()), least=0.005)
        except BaseException:
            subject.restore(before)
            raise
        if worse:
            subject.restore(before)
            warnings.warn("recalibrating made the model worse, and was undone", BatchNormWarning, stacklevel=2)

    def _opened(self) -> tuple[Subject, EvalSet, EvalSet]:
        """The model in place, test and training images; at the first look the data is drawn and the model traced."""
        if self._subject is None or self._sets is None:
            subject, _, _ = in_place(self.model, self._given, None)
            if not subject.layers:
                raise FinetuneError(f"the model '{self.model.name}' has no BatchNormalization layer to watch")
            data = given_data(subject, self._given)
            self._subject, self._sets = subject, (data.test(), data.training(self._given.images))
        return self._subject, *self._sets
