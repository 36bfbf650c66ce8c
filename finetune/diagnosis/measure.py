"""Measure a model three ways: moving statistics, batch statistics, statistics recalibrated on training images."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from finetune.batchnorm.statistics import Snapshot, kept, write
from finetune.batchnorm.surgery import bn_layers
from finetune.diagnosis.evidence import BNEvidence, ThreeWays, drift
from finetune.errors import FinetuneError
from finetune.evaluation import Batches, Evaluator


def examine(
    model: keras.Model,
    *,
    test: Callable[[], Batches],
    train: Callable[[], Batches],
    source: Snapshot | None = None,
    on_batch: Callable[[], None] | None = None,
    **known: Any,
) -> BNEvidence:
    """Evaluate an adopted model on `test` and on a training subset.

    `train` must give its images in a random order: batches of one class have no statistics worth pooling.
    `source` are the moving statistics training started from; `known` the fields of `BNEvidence` that come from the
    run's records. The model is left as it was, also after Ctrl-C. Raises FinetuneError where it has no BatchNorm.
    """
    layers = bn_layers(model)
    if not layers:
        raise FinetuneError(
            f"the model '{model.name}' has no BatchNormalization layer: there is nothing for diagnose-bn to examine; "
            "use 'finetune evaluate' for its accuracy"
        )
    evaluator = Evaluator(model, on_batch=on_batch)
    with kept(model):
        test_false = evaluator.evaluate(test(), "moving")
        train_false = evaluator.evaluate(train(), "moving")
        test_true = evaluator.evaluate(test(), "batch")
        # The pass that scores the training subset with batch statistics also pools them.
        train_true, pooled = evaluator.measure(train())
        drifts = tuple(
            drift(
                layer.name.replace(".", "/"),
                (np.array(layer.moving_mean), np.array(layer.moving_variance)),
                (moments.mean, moments.variance),
                values=moments.count,
                epsilon=layer.epsilon,
                source=source.get(layer.name) if source else None,
            )
            for layer, moments in zip(layers, pooled, strict=True)
        )
        write(model, pooled)
        test_recalibrated = evaluator.evaluate(test(), "moving")
        train_recalibrated = evaluator.evaluate(train(), "moving")
    return BNEvidence(
        test=ThreeWays(test_false, test_true, test_recalibrated),
        train=ThreeWays(train_false, train_true, train_recalibrated),
        classes=model.output_shape[-1],
        layers=drifts,
        **known,
    )
