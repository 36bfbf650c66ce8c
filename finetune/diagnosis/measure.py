"""Measure a model three ways: moving statistics, batch statistics, statistics recalibrated on training images."""

from collections.abc import Callable
from typing import Any

from finetune.batchnorm.statistics import write
from finetune.batchnorm.subject import Snapshot, Subject, kept
from finetune.diagnosis.evidence import BNEvidence, ThreeWays, drift
from finetune.errors import FinetuneError
from finetune.evaluation import Batches, Evaluator


def examine(
    subject: Subject,
    *,
    test: Callable[[], Batches],
    train: Callable[[], Batches],
    source: Snapshot | None = None,
    on_batch: Callable[[], None] | None = None,
    **known: Any,
) -> BNEvidence:
    """Evaluate `subject` on `test` and on a training subset.

    `train` must give its images in a random order: batches of one class have no statistics worth pooling.
    `source` are the moving statistics training started from; `known` the fields of `BNEvidence` that come from the
    run's records. The subject is left as it was, also after Ctrl-C. Raises FinetuneError where it has no BatchNorm.
    """
    layers = subject.layers
    if not layers:
        raise FinetuneError(
            f"the model '{subject.name}' has no BatchNormalization layer: there is nothing for diagnose-bn to examine; "
            "use 'finetune evaluate' for its accuracy"
        )
    evaluator = Evaluator(subject, on_batch=on_batch)
    with kept(subject):
        test_false = evaluator.evaluate(test(), "moving")
        train_false = evaluator.evaluate(train(), "moving")
        test_true = evaluator.evaluate(test(), "batch")
        # The pass that scores the training subset with batch statistics also pools them.
        train_true, pooled = evaluator.measure(train())
        moving = subject.snapshot()
        drifts = tuple(
            drift(
                layer.name.replace(".", "/"),
                moving[layer.name],
                (moments.mean, moments.variance),
                values=moments.count,
                epsilon=layer.epsilon,
                source=source.get(layer.name) if source else None,
            )
            for layer, moments in zip(layers, pooled, strict=True)
        )
        write(subject, pooled)
        test_recalibrated = evaluator.evaluate(test(), "moving")
        train_recalibrated = evaluator.evaluate(train(), "moving")
    return BNEvidence(
        test=ThreeWays(test_false, test_true, test_recalibrated),
        train=ThreeWays(train_false, train_true, train_recalibrated),
        classes=subject.outputs,
        layers=drifts,
        **known,
    )
