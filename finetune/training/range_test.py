"""The learning-rate range test (Smith 2017, arXiv 1506.01186, section 3.3): a rate from the first steps."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain, count
from typing import Any

import keras
import numpy as np

from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.balance import class_weights
from finetune.data.dataset import Split
from finetune.errors import FinetuneError
from finetune.files import write_text
from finetune.reporting import curves
from finetune.runs.directory import RunDir
from finetune.training.display import Display
from finetune.training.loop.optimizer import build
from finetune.training.loop.state import put_back, taken_out
from finetune.training.loop.step import TrainStep
from finetune.training.phases import Prepared

STEPS = 100
LOWEST, HIGHEST = 1e-6, 10.0
_DIVERGED = 4.0
"""The test ends at this multiple of the lowest loss so far."""
_WINDOW = 5
"""A loss is averaged over so many steps before and after it: a third of a decade of rates."""
_BELOW = 3.0
"""The rate of the lowest loss is divided by this.

A tenth is usual for a constant rate. Here the rate is the peak of a schedule that warms up to it and falls to 0, and a
tenth was too little: MobileNet 0.25 on 2,000 CIFAR-10 images at 64 px, 4 epochs, seed 0, had its lowest loss at 0.0040;
61.1 % with a tenth of it, 68.7 % with a third, 67.2 % with the default 0.001. With SGD the lowest loss is at 0.028,
where the tuned default is 0.01."""
_LEAST_FALL = 0.01
"""Share by which the loss must fall for its minimum to count."""


@dataclass(frozen=True)
class RangeTest:
    """The rate of each step, the batch's mean loss before it, the smoothed losses, and the chosen rate.

    diverged: whether the loss rose to `_DIVERGED` times its minimum before the highest rate was reached.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    lowest_at: float
    chosen: float
    diverged: bool

    def to_json(self) -> dict[str, Any]:
        """For `lr_range.json`."""
        rule = "a third of the rate at which the smoothed loss is lowest"
        return {"learning_rate": self.chosen, "rule": rule, **asdict(self)}


def range_test(
    model: keras.Model,
    split: Split,
    config: RunConfig,
    *,
    rates: Mapping[str, float] | None = None,
    class_weights: np.ndarray | None = None,
    multi_label: bool = False,
) -> RangeTest:
    """Train on batches of `split` while the rate grows from LOWEST to HIGHEST by equal factors, then restore `model`.

    `model` is restored to the bit, statistics and dropout's seed included. The batches are those of the run's first
    steps. The chosen rate is a third of the rate with the lowest smoothed loss: beyond the minimum steps overshoot, and
    at the minimum some already do. `config` is complete but for its learning rate; `rates` as in `training.loop.train`,
    `class_weights` and `multi_label` as in `training.loop.step`. Raises FinetuneError where the loss falls at no rate.
    """
    before = taken_out(model.variables, "model")
    try:
        measured = list(_measure(model, split, config, rates, class_weights, multi_label))
    finally:
        put_back(model.variables, before, "model")
    return read([rate for rate, _ in measured], [loss for _, loss in measured])


def _measure(
    model: keras.Model,
    split: Split,
    config: RunConfig,
    rates: Mapping[str, float] | None,
    class_weights: np.ndarray | None,
    multi_label: bool,
) -> Iterator[tuple[float, float]]:
    """(rate, mean loss of the batch before the step), until the loss diverges."""
    variables = model.trainable_variables
    config = replace(config, learning_rate=LOWEST, schedule="constant")
    optimizer = build(config, variables, steps=STEPS, rates=rates)
    step = TrainStep(model, optimizer, variables, config, class_weights=class_weights, multi_label=multi_label).traced()
    lowest = math.inf
    for rate, (images, labels) in zip(np.geomspace(LOWEST, HIGHEST, STEPS), first_batches(split, config), strict=False):
        optimizer.learning_rate = float(rate)
        loss = float(step(images, labels)[0]) / int(labels.shape[0])
        if not math.isfinite(loss) or loss > _DIVERGED * lowest:
            return
        lowest = min(lowest, loss)
        yield float(rate), loss


def first_batches(split: Split, config: RunConfig) -> Iterator[Any]:
    """The batches of a run's first steps, without end."""
    return chain.from_iterable(batches.training(split, config, epoch=epoch, start=0) for epoch in count())


def read(rates: list[float], losses: list[float]) -> RangeTest:
    """The chosen rate of a measured curve. FinetuneError where the loss falls at no rate."""
    smoothed = [float(np.mean(losses[max(at - _WINDOW, 0) : at + _WINDOW + 1])) for at in range(len(losses))]
    lowest = int(np.argmin(smoothed)) if smoothed else 0
    if not smoothed or smoothed[lowest] > (1 - _LEAST_FALL) * max(smoothed[: lowest + 1]):
        raise FinetuneError(
            f"--lr auto: the loss fell at no learning rate from {LOWEST:g} to {HIGHEST:g} "
            f"({len(losses)} steps): check the data and its labels, or give --lr a number"
        )
    chosen = float(f"{rates[lowest] / _BELOW:.2g}")
    return RangeTest(tuple(rates), tuple(losses), tuple(smoothed), rates[lowest], chosen, diverged=len(rates) < STEPS)


def settle_learning_rate(prepared: Prepared, display: Display) -> tuple[Prepared, RangeTest | None]:
    """`prepared` with a number as learning rate, and the range test that found it where it was `auto`.

    The model is unchanged. Raises FinetuneError where the loss falls at no rate.
    """
    config = prepared.config
    if config.learning_rate != "auto":
        return prepared, None
    display.say("learning-rate range test: a few steps at growing rates; the model is then restored")
    dataset = prepared.dataset
    test = range_test(
        prepared.model,
        dataset.train,
        config,
        rates=prepared.rates,
        class_weights=class_weights(dataset, config),
        multi_label=dataset.multi_label,
    )
    display.say(
        f"learning rate {test.chosen:g}: a third of {test.lowest_at:.2g}, where the smoothed loss was lowest "
        f"({len(test.rates)} steps{'' if test.diverged else '; it never diverged'})"
    )
    return replace(prepared, config=replace(config, learning_rate=test.chosen)), test


def write_range_test(run: RunDir, test: RangeTest) -> None:
    """`lr_range.json`, the numbers, and `lr_range.svg`, the curve."""
    run.write("lr_range.json", test.to_json())
    write_text(run.path / "lr_range.svg", curves.range_test(test.to_json()))
