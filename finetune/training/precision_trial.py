"""`--precision auto`: a few training steps in float32 and in 16 bits; the faster of those that learn alike."""

import hashlib
import json
import math
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import tensorflow as tf

from checkpoints.cache.records import cache_dir, locked
from finetune.config import Precision
from finetune.data.balance import class_weights
from finetune.errors import FinetuneError
from finetune.files import read_json, to_json, write_text
from finetune.training.display import Display
from finetune.training.loop.kernels import precision_pays
from finetune.training.loop.optimizer import build
from finetune.training.loop.state import put_back, taken_out
from finetune.training.loop.step import TrainStep
from finetune.training.phases import Prepared
from finetune.training.range_test import first_batches

SECONDS = 5.0
"""How long steps of one precision are timed, once they are traced."""
_LEAST_STEPS = 3
_FASTER = 1.05
"""16 bits are chosen where a step is at least so many times as fast: less may be noise."""
_LOSS = 0.02
"""By this share, or this many nats where that is more, the mean loss may exceed float32's on the same batches."""
_RATE = 1e-4
"""The learning rate of the trial where the run's own is found later (--lr auto)."""


@dataclass(frozen=True)
class Timed:
    """Steps of one precision. seconds: the median of a step. losses: of an image, in nats, before each step."""

    seconds: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Choice:
    """precision: what to train in. reason: why, for users. trials: what was timed, by precision; may be empty."""

    precision: Precision
    reason: str
    trials: dict[str, Timed]

    def to_json(self) -> dict[str, Any]:
        """For `precision.json`."""
        return asdict(self)


def settle_precision(prepared: Prepared, display: Display) -> tuple[Prepared, Choice | None]:
    """`prepared` with a number of bits, and how it was chosen where its precision was `auto`. The model is unchanged.

    The choice is kept in the cache, for the same layers, batches, processor and TensorFlow: repeated runs and the jobs
    of a batch train alike. A process waits while another one on this machine tries the same.
    """
    if prepared.config.precision != "auto":
        return prepared, None
    choice = _without_trial(prepared) or _kept_or_tried(prepared, display)
    display.say(f"precision {choice.precision}: {choice.reason}")
    return replace(prepared, config=replace(prepared.config, precision=choice.precision)), choice


def judge(short: Precision, trials: dict[str, Timed]) -> Choice:
    """The choice between float32 and the precision `short`, by their trials."""
    full, fewer = trials["float32"], trials[short]
    steps = min(len(full.losses), len(fewer.losses))
    loss, other = (sum(one.losses[:steps]) / steps for one in (full, fewer))
    ratio = full.seconds / fewer.seconds
    figures = (
        f"{ratio:.2f} times as fast as float32 ({fewer.seconds:.3g} and {full.seconds:.3g} s a step), with a loss of "
        f"{other:.4g} and {loss:.4g} over the first {steps} steps"
    )
    if not math.isfinite(other) or other - loss > max(_LOSS * abs(loss), _LOSS):
        return Choice("float32", f"{short} learns worse: it is {figures}", trials)
    if ratio < _FASTER:
        return Choice("float32", f"{short} does not pay here: it is {figures}", trials)
    return Choice(short, f"it is {figures}", trials)


def _without_trial(prepared: Prepared) -> Choice | None:
    """float32 where 16 bits cannot pay."""
    if _short() is None:
        return Choice("float32", "this processor has no instructions for 16 bits, which would be slower", {})
    last = {id(variable) for variable in prepared.model.layers[-1].variables}
    if prepared.config.cache_features != "off" and {id(one) for one in prepared.model.trainable_variables} <= last:
        return Choice("float32", "only the last layer trains, and that computes in float32 in every precision", {})
    return None


def _short() -> Precision | None:
    """The precision of 16 bits that this machine may be faster in: bfloat16, or float16 on GPUs before Ampere."""
    for device in tf.config.list_physical_devices("GPU"):
        capability = tf.config.experimental.get_device_details(device).get("compute_capability", (8, 0))
        if capability < (8, 0):
            return "float16"
    return "bfloat16" if precision_pays("bfloat16") else None


def _kept_or_tried(prepared: Prepared, display: Display) -> Choice:
    path = cache_dir() / "precision" / f"{_key(prepared)}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            choice = _kept(path)
            if choice is None:
                choice = _tried(prepared, display)
                with suppress(OSError):
                    write_text(path, to_json(choice.to_json(), indent=1) + "\n")
            return choice
    except OSError:  # nothing can be kept there, or locked
        return _tried(prepared, display)


def _kept(path: Path) -> Choice | None:
    """What an earlier trial chose; None where there is none, or its file is damaged."""
    try:
        found = read_json(path)
        trials = {name: Timed(one["seconds"], tuple(one["losses"])) for name, one in found["trials"].items()}
        choice = judge(next(name for name in trials if name != "float32"), trials)
    except (OSError, FinetuneError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, StopIteration):
        return None
    return replace(choice, reason=f"{choice.reason}, by an earlier trial on this machine")


def _tried(prepared: Prepared, display: Display) -> Choice:
    short = _short() or "bfloat16"
    display.say(f"precision: some steps in float32 and {short}; the model is then restored")
    return judge(short, {name: _timed(prepared, name) for name in ("float32", short)})


def _timed(prepared: Prepared, precision: Precision) -> Timed:
    """Train with `precision` on the run's first batches for SECONDS, then restore the model to the bit."""
    model, dataset, config = prepared.model, prepared.dataset, replace(prepared.config, precision=precision)
    if config.learning_rate == "auto":
        config = replace(config, learning_rate=_RATE)
    variables, before = model.trainable_variables, taken_out(model.variables, "model")
    optimizer = build(config, variables, steps=prepared.last_phase_steps, rates=prepared.rates)
    weights = class_weights(dataset, config)
    step = TrainStep(
        model, optimizer, variables, config, class_weights=weights, multi_label=dataset.multi_label
    ).traced()
    try:
        batches = first_batches(dataset.train, config)
        seconds, losses = zip(*_steps(step, batches), strict=True)
    finally:
        put_back(model.variables, before, "model")
    return Timed(median(seconds[1:]), losses)  # the first step is traced


def _steps(step: Any, batches: Iterator[tuple[tf.Tensor, tf.Tensor]]) -> Iterator[tuple[float, float]]:
    """(seconds, mean loss of an image) of each step, for SECONDS after the first one."""
    end = math.inf
    for done, (images, labels) in enumerate(batches):
        if done > _LEAST_STEPS and time.monotonic() > end:
            return
        began = time.monotonic()
        loss = float(step(images, labels)[0]) / int(labels.shape[0])
        yield time.monotonic() - began, loss
        if done == 0:
            end = time.monotonic() + SECONDS


def _key(prepared: Prepared) -> str:
    """Of what decides how fast a step is."""
    config, model = prepared.config, prepared.model
    trained = {id(variable) for variable in model.trainable_variables}
    variables = [(*variable.shape, id(variable) in trained) for variable in model.variables]
    details = [tf.config.experimental.get_device_details(one) for one in tf.config.list_physical_devices("GPU")]
    decisive = [
        *([type(layer).__name__ for layer in model.layers], variables, model.input_shape),
        *(config.batch_size, config.microbatch, config.optimizer, config.ema, config.mixup, config.cutmix),
        *(_processor(), [sorted(map(str, one.items())) for one in details], tf.__version__),
    ]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:24]


def _processor() -> str:
    """The name of the processor."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return platform.processor()
