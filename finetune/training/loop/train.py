"""The loop over epochs and steps: resumable at any step, stopped by a loss that is not finite.

Also what it works with: where its batches come from, who observes it, and which layers train when.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Statistics
from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.balance import class_weights
from finetune.data.dataset import WHOLE, Dataset, Share
from finetune.errors import FinetuneError, Interrupted
from finetune.evaluation.evaluator import Evaluation, Evaluator
from finetune.evaluation.selection import selection_score
from finetune.training.distribution.strategy import ALONE, Distribution
from finetune.training.loop.mean_weights import MeanWeights
from finetune.training.loop.optimizer import averages, build
from finetune.training.loop.state import State, put_back, taken_out
from finetune.training.loop.step import TrainStep

_SCORES = ("loss", "accuracy", "balanced_accuracy", "macro_f1")
_LABEL_SCORES = ("loss", "accuracy", "macro_f1", "micro_f1", "exact_match", "map")
"""Of validation images, in the row of an epoch; of several labels an image."""
_SAVING_SHARE = 20
"""At most one part in so many of the time between two states goes into writing them."""


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
        self,
        split: str,
        statistics: Statistics = "moving",
        *,
        shared: bool = False,
        on_batch: Callable[[], None] | None = None,
    ) -> tuple[Evaluator, Any]:
        """What scores the whole model on the `validation` or `test` images under `statistics`, and the batches to give
        to it; `on_batch` is called after each. shared: the batches are this worker's part; else all of them."""


class ImageFeed:
    """Images, for the whole model. `share` is this worker's part of them."""

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
        self,
        split: str,
        statistics: Statistics = "moving",
        *,
        shared: bool = False,
        on_batch: Callable[[], None] | None = None,
    ) -> tuple[Evaluator, Any]:
        """As `Feed.scoring`. The evaluator is one for all splits, so each kind of statistics is traced once a run."""
        self._evaluator.on_batch = on_batch
        share = self._share if shared else WHOLE
        return self._evaluator, batches.evaluation(getattr(self.dataset, split), self._config, share=share)


class Observer:
    """Is called by the loop, and may ask it to stop. This one does nothing."""

    def on_step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        """After every step: the epoch and step, how many images the step trained on, the batch's mean loss."""

    def on_epoch(self, history: list[dict[str, Any]]) -> None:
        """After every epoch, with the rows of all epochs so far."""

    def on_averages(self, weights: dict[str, np.ndarray]) -> None:
        """Once at the end of a run with `ema` or `swa_start`: the average of each trainable variable, by its path."""

    def save(self, state: State) -> None:
        """Keep `state`: the run may be resumed from it."""

    def stop_requested(self) -> bool:
        """Whether the run is to stop after this step."""
        return False


class Phases:
    """Which layers train in which epochs. Each phase has an optimizer and a schedule of its own.

    This is the one phase of a model whose layers' switches are set already and stay.
    """

    @property
    def first_epochs(self) -> Sequence[int]:
        """The epoch each phase begins with, counted from 0, ascending; the first is 0."""
        return (0,)

    def enter(self, number: int) -> None:
        """Set the layers' switches for a phase. A resumed run enters its phase again."""


@dataclass
class _Progress:
    """How far the run is. JSON values only: it is stored with the state."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: float = 0
    seen: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -1.0
    best_epoch: int = -1
    averaged: int = 0


def train(
    feed: Feed,
    config: RunConfig,
    observer: Observer,
    *,
    phases: Phases | None = None,
    rates: Mapping[str, float] | None = None,
    resume_from: State | None = None,
    distribution: Distribution = ALONE,
    save_seconds: float = 300.0,
) -> list[dict[str, Any]]:
    """Train the model of `feed` in place on a completed `config`; returns one row per epoch.

    Either the layers' switches are set (`finetune.backbone.freezing.apply`), or `phases` sets them. `rates`
    multiplies the learning rate of each variable by its path. The batches, their order and their augmentation are
    functions of (seed, epoch, batch), so a resumed run sees the batches of an unbroken one.
    With a `distribution`, the model was made in its scope and every process calls this. Only the chief has a state to
    resume from and is asked to save one.
    With `patience`, the weights of the best validation epoch, by `select_by`, are put back at the end.
    `save_seconds`: the longest time between two saved states within an epoch.
    Raises FinetuneError when a loss or a variable that would be kept is not finite; Interrupted when the observer
    asked to stop (state saved).
    """
    training = _Training(feed, config, observer, phases or Phases(), rates, distribution)
    training.begin(resume_from)
    while training.continues():
        training.run_epoch(save_seconds)
    return training.end()


@dataclass
class _Training:
    """One training: its progress, the optimizer and step of its present phase, and when its state was last saved."""

    _feed: Feed
    _config: RunConfig
    _observer: Observer
    _phases: Phases
    _rates: Mapping[str, float] | None
    _on: Distribution
    _progress: _Progress = field(default_factory=_Progress)
    _best: dict[str, np.ndarray] = field(default_factory=dict)
    _mean: MeanWeights = field(default_factory=MeanWeights)
    _pause: float = 0.0

    def __post_init__(self) -> None:
        self._model, self._epochs = self._feed.whole, self._config.epochs or 0
        self._per_epoch = batches.steps_per_epoch(self._feed.dataset.train, self._config)
        self._ends = [*self._phases.first_epochs[1:], self._epochs]

    def begin(self, resume_from: State | None) -> None:
        """Enter the first phase, or that of `resume_from` with its model, optimizer and progress."""
        if resume_from is not None:
            try:
                self._progress = _Progress(**resume_from.progress)
            except TypeError as error:
                raise FinetuneError(f"state.npz is of another version ({error}): delete it to start again") from None
            put_back(self._model.variables, resume_from.arrays, "model")
            self._best = {name: value for name, value in resume_from.arrays.items() if name.startswith("best/")}
            sums = {name[len("swa/") :]: value for name, value in resume_from.arrays.items() if name.startswith("swa/")}
            self._mean = MeanWeights(sums, self._progress.averaged)
        resumed = self._on.share(resume_from is not None)
        if resumed:
            self._progress = _Progress(**self._on.share(dataclasses.asdict(self._progress)))
        progress, first_epochs = self._progress, self._phases.first_epochs
        self._enter(sum(first <= progress.epoch for first in first_epochs) - 1)
        phase_has_begun = progress.batch > 0 or first_epochs[self._phase] < progress.epoch
        if resume_from is not None and phase_has_begun:
            put_back(self._optimizer.variables, resume_from.arrays, "optimizer")
        if resumed:
            self._on.give_out([*self._model.variables, *self._optimizer.variables])
        self._on.part_seeds(self._model)
        self._saved_at = time.monotonic()

    def continues(self) -> bool:
        """Whether there is another epoch. Patience is counted from the last phase on: the others lead to it."""
        progress, patience = self._progress, self._config.patience
        if progress.epoch >= self._epochs:
            return False
        since = max(progress.best_epoch, self._phases.first_epochs[-1] - 1)
        return patience is None or progress.epoch - 1 - since < patience

    def run_epoch(self, save_seconds: float) -> None:
        """Train from the present batch to the end of the epoch, score the validation images, save the state."""
        progress = self._progress
        if progress.epoch == self._ends[self._phase]:
            self._enter(self._phase + 1)
        tick = time.monotonic()
        for inputs, labels in self._feed.training(epoch=progress.epoch, start=progress.batch):
            losses, corrects = (np.atleast_1d(value).tolist() for value in self._step(inputs, labels))
            images = int(labels.shape[1 if self._feed.stacked else 0]) * self._on.workers
            progress.seconds, tick = progress.seconds + time.monotonic() - tick, time.monotonic()
            for loss_sum, correct in zip(losses, corrects, strict=True):
                self._count(loss_sum, correct, images)
            if self._on.any(self._observer.stop_requested()):
                self._save()
                raise Interrupted(f"stopped at step {self._steps_done} of {self._per_epoch * self._epochs}")
            if time.monotonic() - self._saved_at > save_seconds:
                self._save()
        validation = None
        if self._feed.dataset.validation is not None:
            validation = _evaluated(
                *self._feed.scoring("validation", shared=True), self._on, self._model.output_shape[-1]
            )
        self._close_epoch(validation)
        self._average()
        self._check_scale()
        if self._config.patience and progress.best_epoch == progress.epoch - 1:
            self._best = taken_out(self._model.variables, "best")
        self._observer.on_epoch(progress.history)
        # Where an epoch is shorter than writing its state, only some epochs are saved.
        if time.monotonic() - self._saved_at > self._pause:
            self._save()

    def end(self) -> list[dict[str, Any]]:
        """Hand out the averages, put the best weights back; returns one row per epoch."""
        _check_finite(self._model, self._config)
        if self._config.ema is not None:
            self._observer.on_averages(averages(self._optimizer, self._variables))
        if self._mean.count:
            mean = self._mean.mean()
            self._observer.on_averages({one.path: mean[one.path].astype(one.dtype) for one in self._variables})
        if self._best:
            put_back(self._model.variables, self._best, "best")
        if self._config.patience:
            self._on.give_out(self._model.variables)
        return self._progress.history

    @property
    def _steps_done(self) -> int:
        return self._progress.epoch * self._per_epoch + self._progress.batch

    def _enter(self, number: int) -> None:
        """Set the switches of a phase, make its optimizer and trace its step."""
        self._phase = number
        self._phases.enter(number)
        config, variables = self._config, self._model.trainable_variables
        steps = self._per_epoch * (self._ends[number] - self._phases.first_epochs[number])
        with self._on.scope():
            optimizer = build(config, variables, steps=steps, per_epoch=self._per_epoch, rates=self._rates)
        self._optimizer, self._variables = optimizer, variables
        weights = class_weights(self._feed.dataset, config)
        step = TrainStep(
            self._feed.model, optimizer, variables, config, self._on, weights, self._feed.dataset.multi_label
        )
        self._step = step.several() if self._feed.stacked else step.traced()

    def _count(self, loss_sum: float, correct: float, images: int) -> None:
        """Add one step to the progress and report it. FinetuneError where its loss is not finite."""
        progress = self._progress
        if not math.isfinite(loss_sum):
            where = f"step {self._steps_done + 1} (epoch {progress.epoch + 1})"
            raise _diverged(f"the loss is {loss_sum} at {where}", self._config)
        progress.batch += 1
        progress.loss_sum += loss_sum
        progress.correct += correct
        progress.seen += images
        self._observer.on_step(
            epoch=progress.epoch + 1,
            step=self._steps_done,
            steps=self._per_epoch * self._epochs,
            images=images,
            loss=loss_sum / images,
        )

    def _average(self) -> None:
        """Count the weights at the end of an epoch from `swa_start` on. The average begins with the last phase at the
        earliest: before it, layers that train now were frozen."""
        start, last_phase = self._config.swa_start, self._phases.first_epochs[-1]
        if start is not None and self._progress.epoch >= max(start, last_phase + 1) and self._on.is_chief:
            self._mean.add({variable.path: np.array(variable) for variable in self._variables})
            self._progress.averaged = self._mean.count

    def _check_scale(self) -> None:
        """FinetuneError where loss scaling has no more scale to lower: all steps would be skipped."""
        scale = self._optimizer.loss_scale
        if scale is not None and float(scale.value) < 1.0:
            skipped = int(scale.skipped_steps)
            raise _diverged(f"gradients are not finite at a loss scale of 1 ({skipped} steps skipped)", self._config)

    def _save(self) -> None:
        if not self._on.is_chief:
            return
        began = time.monotonic()
        _check_finite(self._model, self._config)  # before it replaces a state that was finite
        arrays = taken_out(self._model.variables, "model") | taken_out(self._optimizer.variables, "optimizer")
        arrays |= {f"swa/{path}": total for path, total in self._mean.sums.items()}
        self._observer.save(State(arrays | self._best, dataclasses.asdict(self._progress), self._config.to_json()))
        self._saved_at = time.monotonic()
        self._pause = _SAVING_SHARE * (self._saved_at - began)

    def _close_epoch(self, validation: Evaluation | None) -> None:
        """Append the epoch's row and turn to the next epoch."""
        progress = self._progress
        row: dict[str, Any] = {
            "kind": "epoch",
            "epoch": progress.epoch + 1,
            "step": (progress.epoch + 1) * self._per_epoch,
            "train_loss": progress.loss_sum / progress.seen,
            "train_accuracy": progress.correct / progress.seen,
            "learning_rate": float(np.asarray(self._optimizer.learning_rate)),
        }
        if batches.mixes(self._config):
            row["train_labels"] = "mixed"  # loss and accuracy of mixed images cannot be compared with validation's
        if validation:
            names = _LABEL_SCORES if validation.multi_label else _SCORES
            row |= {f"validation_{name}": getattr(validation, name) for name in names}
            score = selection_score(row, self._config.select_by or "accuracy")
            if score is not None and (progress.best_epoch < 0 or score > progress.best):
                progress.best, progress.best_epoch = score, progress.epoch
        if (scale := self._optimizer.loss_scale) is not None:
            row |= {"loss_scale": float(scale.value), "skipped_steps": int(scale.skipped_steps)}
        row["seconds"] = round(progress.seconds, 3)
        row["images_per_second"] = round(progress.seen / max(progress.seconds, 1e-9), 1)
        progress.history.append(row)
        progress.epoch += 1
        progress.batch = progress.correct = progress.seen = 0
        progress.loss_sum = progress.seconds = 0.0


def _evaluated(evaluator: Evaluator, part: Any, distribution: Distribution, classes: int) -> Evaluation:
    """The evaluation of all processes' parts together: each has batches of its own, or none."""
    own = evaluator.evaluate(part) if len(part) else Evaluation(0, 0, 0, 0.0, by_class=((0, 0, 0),) * classes)
    if distribution.workers == 1:
        return own
    counts = [own.examples, own.correct, own.correct_top5, *(number for one in own.by_class for number in one)]
    loss, *sums = distribution.sum_over_workers([own.loss_sum, *counts])
    examples, correct, top5, *each = map(int, sums)
    return Evaluation(
        examples, correct, top5, loss, by_class=tuple(zip(each[::3], each[1::3], each[2::3], strict=True))
    )


def _check_finite(model: keras.Model, config: RunConfig) -> None:
    """FinetuneError where a weight or statistic is not finite: the loss shows the steps before, not the last one."""
    bad = [
        variable.path
        for variable in model.variables
        if "float" in str(variable.dtype) and not np.isfinite(np.asarray(variable)).all()
    ]
    if bad:
        more = f" and {len(bad) - 1} more variables hold" if len(bad) > 1 else " holds"
        raise _diverged(f"{bad[0]}{more} values that are not finite", config)


def _diverged(what: str, config: RunConfig) -> FinetuneError:
    wide = "; or leave --precision float16 out, which ends at 65504" if config.precision == "float16" else ""
    advice = f"Lower --learning-rate (it is {config.learning_rate:g}) or give --clip-norm 1{wide}"
    return FinetuneError(f"{what}: the run has stopped. {advice}")
