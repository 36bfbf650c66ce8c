"""The loop over epochs and steps: resumable at any step, stopped by a loss that is not finite."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np

from finetune.config.run_config import RunConfig
from finetune.data import batches
from finetune.data.dataset import Dataset
from finetune.data.share import Share
from finetune.errors import FinetuneError, Interrupted
from finetune.evaluation.evaluator import Evaluation, Evaluator
from finetune.training.distribution.strategy import ALONE, Distribution
from finetune.training.loop.feed import Feed, ImageFeed
from finetune.training.loop.optimizer import averages, build
from finetune.training.loop.state import State, model_arrays, optimizer_arrays, put_back
from finetune.training.loop.step import Step, train_step, train_steps

_SAVING_SHARE = 20
"""Of the time between the states kept at the ends of epochs, one part in so many goes into writing them."""


class Observer(Protocol):
    """Hears what the loop does, and may ask it to stop."""

    def on_step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        """After every step: how far the run is, how many images it trained on, the batch's mean loss."""

    def on_epoch(self, history: list[dict[str, Any]]) -> None:
        """After every epoch, with the rows of all epochs so far."""

    def on_averages(self, weights: dict[str, np.ndarray]) -> None:
        """Once at the end of a run with `ema`: the averaged value of each variable that trained, by its path."""

    def save(self, state: State) -> None:
        """Keep `state`: the run may be resumed from it."""

    def stop_requested(self) -> bool:
        """True once the user wants the run to stop at the next step."""


@dataclass(frozen=True)
class Phase:
    """Epochs in which the same layers train: from `first_epoch`, counted from 0, until the next stretch.

    `enter` sets the layers' switches; a resumed run enters a stretch anew.
    """

    first_epoch: int
    enter: Callable[[], None]


@dataclass
class _Progress:
    """Where the run stands. JSON values only: it is stored with the state."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: float = 0
    seen: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -1.0
    best_epoch: int = -1


def train(
    model: keras.Model,
    dataset: Dataset,
    config: RunConfig,
    observer: Observer,
    *,
    stretches: Sequence[Phase] = (),
    rates: Mapping[str, float] | None = None,
    feed: Feed | None = None,
    resume_from: State | None = None,
    distribution: Distribution = ALONE,
    save_seconds: float = 300.0,
) -> list[dict[str, Any]]:
    """Train `model` in place on a completed `config`; returns one row per epoch.

    The layers' switches (`finetune.backbone.freezing.apply`) must have been set, or are by the `stretches`, the first of which
    begins with epoch 0: each has an optimizer and a schedule of its own, and its steps are traced anew. `rates`
    multiplies the learning rate of each variable by its path. The batches, their order and their augmentation are
    functions of (seed, epoch, batch), so a resumed run sees what an unbroken one would have.
    `feed` may train the upper part of `model` alone, on features of the rest; without, images go through all of it.
    With a `distribution`, `model` was made in its scope, every process calls this, and the chief alone has a state to
    resume from and is asked to save one.
    With `patience`, the weights of the best validation epoch are put back at the end.
    Raises FinetuneError when a loss is not finite, or a variable that would be kept; Interrupted when the observer
    asked to stop (state saved).
    """
    split, epochs = dataset.train, config.epochs or 0
    per_epoch = batches.steps_per_epoch(split, config)
    mixed = batches.mixes(config)
    stretches = stretches or [Phase(0, lambda: None)]
    ends = [*(stretch.first_epoch for stretch in stretches[1:]), epochs]
    whole = ImageFeed(model, dataset, config, share=Share(distribution.rank, distribution.workers))
    source: Feed = feed or whole

    def begin(number: int) -> tuple[Any, list[Any], Step]:
        stretches[number].enter()
        variables = model.trainable_variables
        steps = per_epoch * (ends[number] - stretches[number].first_epoch)
        with distribution.scope():
            optimizer = build(config, variables, steps=steps, rates=rates)
        how: dict[str, Any] = {
            "label_smoothing": config.label_smoothing,
            "precision": config.precision,
            "microbatch": config.microbatch,
        }
        if feed is not None:
            return optimizer, variables, train_steps(feed.model, optimizer, variables, **how)
        return (
            optimizer,
            variables,
            train_step(model, optimizer, variables, mixed=mixed, distribution=distribution, **how),
        )

    progress, best = _Progress(), {}
    if resume_from is not None:
        progress = _continued(resume_from)
        put_back(model.variables, resume_from.arrays, "model")
        best = {name: value for name, value in resume_from.arrays.items() if name.startswith("best/")}
    goes_on = distribution.share(resume_from is not None)
    if goes_on:
        progress = _Progress(**distribution.share(dataclasses.asdict(progress)))

    number = sum(stretch.first_epoch <= progress.epoch for stretch in stretches) - 1
    optimizer, variables, step = begin(number)
    at_its_start = progress.batch == 0 and stretches[number].first_epoch == progress.epoch
    if resume_from is not None and not at_its_start:
        put_back(optimizer.variables, resume_from.arrays, "optimizer")
    if goes_on:
        distribution.give_out([*model.variables, *optimizer.variables])
    distribution.part_seeds(model)

    saved_at, pause = time.monotonic(), 0.0

    def save() -> None:
        nonlocal saved_at, pause
        if not distribution.is_chief:
            return
        began = time.monotonic()
        _check_finite(model, config)  # before it replaces a state that was
        arrays = model_arrays(model) | optimizer_arrays(optimizer) | best
        observer.save(State(arrays, dataclasses.asdict(progress), config.to_json()))
        saved_at = time.monotonic()
        pause = _SAVING_SHARE * (saved_at - began)

    while progress.epoch < epochs and not _out_of_patience(progress, config, since=stretches[-1].first_epoch):
        if progress.epoch == ends[number]:
            number += 1
            optimizer, variables, step = begin(number)
        tick = time.monotonic()
        for inputs, labels in source.training(epoch=progress.epoch, start=progress.batch):
            losses, corrects = (np.atleast_1d(value).tolist() for value in step(inputs, labels))
            count = int(labels.shape[0 if feed is None else 1]) * distribution.workers
            progress.seconds, tick = progress.seconds + time.monotonic() - tick, time.monotonic()
            for loss_sum, correct in zip(losses, corrects, strict=True):
                done = progress.epoch * per_epoch + progress.batch + 1
                if not math.isfinite(loss_sum):
                    raise _diverged(f"the loss is {loss_sum} at step {done} (epoch {progress.epoch + 1})", config)
                progress.batch += 1
                progress.loss_sum += loss_sum
                progress.correct += correct
                progress.seen += count
                observer.on_step(
                    epoch=progress.epoch + 1, step=done, steps=per_epoch * epochs, images=count, loss=loss_sum / count
                )
            if distribution.any(observer.stop_requested()):
                save()
                raise Interrupted(f"stopped at step {done} of {per_epoch * epochs}")
            if time.monotonic() - saved_at > save_seconds:
                save()
        validation = None
        if dataset.validation is not None:
            validation = _evaluated(*source.scoring("validation"), distribution)
        _close_epoch(progress, optimizer, validation, steps=per_epoch, mixed=mixed)
        if config.patience and progress.best_epoch == progress.epoch - 1:
            best = {f"best/{name.split('/')[1]}": value for name, value in model_arrays(model).items()}
        observer.on_epoch(progress.history)
        # Where an epoch takes less than writing its state, there is one every few epochs.
        if time.monotonic() - saved_at > pause:
            save()
    _check_finite(model, config)
    if config.ema is not None:
        observer.on_averages(averages(optimizer, variables))
    if best:
        put_back(model.variables, best, "best")
    if config.patience:
        distribution.give_out(model.variables)
    return progress.history


def _evaluated(evaluator: Evaluator, part: Any, distribution: Distribution) -> Evaluation:
    """The evaluation of all processes' parts together: each has batches of its own, or none."""
    own = evaluator.evaluate(part) if len(part) else Evaluation(0, 0, 0, 0.0)
    if distribution.workers == 1:
        return own
    examples, correct, top5, loss = distribution.sum_over_workers(list(dataclasses.astuple(own)))
    return Evaluation(int(examples), int(correct), int(top5), loss)


def _check_finite(model: keras.Model, config: RunConfig) -> None:
    """FinetuneError where a weight or statistic is not finite: a loss tells of the steps before it, not of the last."""
    bad = [
        variable.path
        for variable in model.variables
        if "float" in str(variable.dtype) and not np.isfinite(np.asarray(variable)).all()
    ]
    if bad:
        more = f" and {len(bad) - 1} more variables hold" if len(bad) > 1 else " holds"
        raise _diverged(f"{bad[0]}{more} values that are not finite", config)


def _diverged(what: str, config: RunConfig) -> FinetuneError:
    return FinetuneError(
        f"{what}: the run has stopped. Lower --learning-rate (it is {config.learning_rate:g}) or give --clip-norm 1"
    )


def _continued(state: State) -> _Progress:
    try:
        return _Progress(**state.progress)
    except TypeError as error:
        raise FinetuneError(f"state.npz is of another version ({error}): delete it to begin anew") from None


def _close_epoch(
    progress: _Progress,
    optimizer: keras.optimizers.Optimizer,
    validation: Evaluation | None,
    *,
    steps: int,
    mixed: bool,
) -> None:
    """Append the epoch's row and turn to the next epoch."""
    row: dict[str, Any] = {
        "kind": "epoch",
        "epoch": progress.epoch + 1,
        "step": (progress.epoch + 1) * steps,
        "train_loss": progress.loss_sum / progress.seen,
        "train_accuracy": progress.correct / progress.seen,
        "learning_rate": float(np.asarray(optimizer.learning_rate)),
    }
    if mixed:
        row["train_labels"] = "mixed"  # loss and accuracy are of mixed images, and no match for validation's
    if validation:
        row["validation_loss"], row["validation_accuracy"] = validation.loss, validation.accuracy
        if validation.accuracy > progress.best:
            progress.best, progress.best_epoch = validation.accuracy, progress.epoch
    row["seconds"] = round(progress.seconds, 3)
    row["images_per_second"] = round(progress.seen / max(progress.seconds, 1e-9), 1)
    progress.history.append(row)
    progress.epoch += 1
    progress.batch = progress.correct = progress.seen = 0
    progress.loss_sum = progress.seconds = 0.0


def _out_of_patience(progress: _Progress, config: RunConfig, *, since: int) -> bool:
    """Patience is counted from the last stretch on, epoch `since`: those before it are on the way to it."""
    return config.patience is not None and progress.epoch - 1 - max(progress.best_epoch, since - 1) >= config.patience
