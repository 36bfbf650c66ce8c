"""`--ema`: averaged weights, with the statistics that belong to them."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from finetune.backbone.keras_file import save_stock
from finetune.batchnorm.surgery import parts
from finetune.runs.directory import RunDir

LAST_STEP = "model-last-step.keras"
"""Beside `model.keras`, which holds the averages."""


def take_over(
    run: RunDir,
    model: keras.Model,
    weights: Mapping[str, np.ndarray],
    *,
    decay: float,
    score: Callable[[], dict[str, Any]],
    recalibrate: Callable[[], bool],
) -> dict[str, Any]:
    """Make `model` the averaged one, and keep what it was as LAST_STEP; returns what `result.json` says of it.

    Moving statistics are averages over batches as the last weights saw them: under averaged weights every layer's
    inputs are others, and test accuracy suffers (tensorflow/tensorflow#30274). So they are measured anew by
    `recalibrate`, which tells whether any update at all. `score` gives both test evaluations as JSON values.
    """
    last = {"model": LAST_STEP, "test": score()}
    save_stock(model, run.path / LAST_STEP)
    for part in parts(model):
        for variable in part.weights:
            if variable.path in weights:
                variable.assign(weights[variable.path])
    statistics = "recalibrated" if recalibrate() else "unchanged"
    return {"kind": "averaged", "ema": decay, "statistics": statistics, "last_step": last}
