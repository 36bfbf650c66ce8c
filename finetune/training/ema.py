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
    """Give `model` the averaged weights, and keep the last step's model as LAST_STEP. Returns `weights` of the result.

    The moving statistics belong to the last weights. Under averaged weights every layer has other inputs, and test
    accuracy suffers (tensorflow/tensorflow#30274). So `recalibrate` measures them again; it returns whether any layer
    updates its statistics. `score` returns both test evaluations as JSON values.
    """
    last = {"model": LAST_STEP, "test": score()}
    save_stock(model, run.path / LAST_STEP)
    for part in parts(model):
        for variable in part.weights:
            if variable.path in weights:
                variable.assign(weights[variable.path])
    statistics = "recalibrated" if recalibrate() else "unchanged"
    return {"kind": "averaged", "ema": decay, "statistics": statistics, "last_step": last}
