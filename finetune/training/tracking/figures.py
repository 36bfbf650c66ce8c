"""The values trackers get, under the names they show."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.batchnorm.subject import Snapshot

_NAMES = {
    "train_loss": "loss/train",
    "validation_loss": "loss/validation",
    "train_accuracy": "accuracy/train",
    "validation_accuracy": "accuracy/validation",
    "learning_rate": "learning_rate",
    "epoch": "epoch",
    "seconds": "speed/epoch_seconds",
    "images_per_second": "speed/images_per_second",
}


def of_epoch(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl; those of a checkup (`--diagnose-every`) are called bn/..."""
    found = {_NAMES.get(name, name): value for name, value in row.items() if name not in ("step", "kind", "bn")}
    found |= {f"bn/{name}": value for name, value in (row.get("bn") or {}).items()}
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def of_result(result: Mapping[str, Any]) -> dict[str, float]:
    """The test images' accuracy and loss: without a suffix with `is_training=False`, with a suffix with True."""
    ways = {"": "is_training_false", "_is_training_true": "is_training_true"}
    found = {
        f"{measure}/test{suffix}": result["test"][way][measure]
        for measure in ("accuracy", "loss")
        for suffix, way in ways.items()
    }
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def settings(config: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """The settings of a config that are set; a list as one text."""
    return {
        name: " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        for name, value in config.items()
        if value is not None and name != "tracker"
    }


def drift(now: Snapshot, source: Snapshot | None) -> dict[str, np.ndarray]:
    """(moving mean - its start) / sigma of the start, float `[channels]`, for each layer whose statistics changed."""
    found = {}
    for name, (mean, variance) in now.items():
        if source is None or name not in source:
            continue
        start, spread = source[name]
        if not (np.array_equal(mean, start) and np.array_equal(variance, spread)):
            # As in BatchNorm, epsilon keeps channels with hardly any variance from a division by zero.
            found[name] = (mean - start) / np.sqrt(np.maximum(spread, 0) + 1e-3)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0
