"""Measure a subject three ways: moving statistics, batch statistics, statistics recalibrated on training images.

Two passes over test and training images under each; whatever else the same passes can tell is taken from them. Further
checks (`checks.py`) are made where the figures call for them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from finetune.batchnorm.statistics import Moments, write
from finetune.batchnorm.subject import Snapshot, Subject, kept
from finetune.data.evalset import EvalSet
from finetune.diagnosis import checks, labels
from finetune.diagnosis.checks import CheckBudget
from finetune.diagnosis.drift import drift, initial, share_left
from finetune.diagnosis.evidence import BNEvidence, Facts, Share, ThreeWays
from finetune.diagnosis.rules import data_rules
from finetune.diagnosis.rules.rule import Commands, Reading
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import Evaluator, Pass

Extent = Literal["quick", "default", "all"]
"""Which further checks: none, those the figures call for, every one."""


def examine(
    subject: Subject,
    *,
    test: EvalSet,
    train: EvalSet,
    source: Snapshot | None = None,
    facts: Facts | None = None,
    extent: Extent = "default",
    on_batch: Callable[[], None] | None = None,
) -> BNEvidence:
    """Examine `subject` on `test`, in the data's own order, and on a training subset.

    `train` must give its images in a random order: batches of one class have no statistics worth pooling. `source` are
    the moving statistics training started from, for the layers where they are known. The subject is left as it was,
    also after Ctrl-C. Raises FinetuneError where it has no BatchNorm.
    """
    if not subject.layers:
        raise FinetuneError(
            f"the model '{subject.name}' has no BatchNormalization layer: there is nothing for diagnose-bn to examine; "
            "use 'finetune evaluate' for its accuracy"
        )
    evaluator = Evaluator(subject, on_batch=on_batch)
    with kept(subject):
        test_false = evaluator.examine(test.batches(), "moving")
        train_false = evaluator.examine(train.batches(), "moving")
        # The passes that score with batch statistics also pool them.
        test_true = evaluator.examine(test.batches(), "batch")
        train_true = evaluator.examine(train.batches(), "batch")
        moving = subject.snapshot()
        recalibrated = {
            layer.name: (pooled.mean, pooled.variance)
            for layer, pooled in zip(subject.layers, train_true.moments, strict=True)
        }
        write(subject, train_true.moments)
        test_recalibrated = evaluator.examine(test.batches(), "moving")
        train_recalibrated = evaluator.examine(train.batches(), "moving")
        subject.restore(moving)
        layers = subject.layers
        evidence = BNEvidence(
            test=_three(test_false, test_true, test_recalibrated),
            train=_three(train_false, train_true, train_recalibrated),
            classes=subject.outputs,
            layers=tuple(
                drift(layer, moving[layer.name], pooled, test=tested, source=source.get(layer.name) if source else None)
                for layer, pooled, tested in zip(layers, train_true.moments, test_true.moments, strict=True)
            ),
            facts=facts or Facts(),
            batch_size=min(train.batch_size, len(train)),
            shares=_shares(subject, moving, train_true.moments, source),
            labels=labels.explain(
                [(one.labels, one.predictions) for one in (test_false, test_true, test_recalibrated)],
                [(one.labels, one.predictions) for one in (train_false, train_true, train_recalibrated)],
                subject.outputs,
            ),
        )
        called = checks.called_for(evidence) if extent == "default" else checks.ALL if extent == "all" else frozenset()
        room = CheckBudget(
            evaluator,
            subject,
            test,
            train,
            generous=extent == "all" or checks.suspicious(evidence),
            thorough=extent == "all",
        )
        if "preprocessing" in called:
            ways = evidence.train
            best = max(ways.is_training_true.accuracy, ways.recalibrated.accuracy)
            reach = best - ways.is_training_false.accuracy
            check = checks.preprocessing(room, test_false, train_false, reach=reach)
            evidence = replace(evidence, preprocessing=check)
        if "partial" in called:
            initial_only = {layer.name for layer, seen in zip(layers, evidence.layers, strict=True) if seen.at_initial}
            evidence = replace(evidence, partly_repaired=checks.partly(room, moving, recalibrated, initial_only))
        fed_wrongly = data_rules.wrong_preprocessing(Reading(evidence, Commands(""))) is not None
        if "batches" in called and not (extent == "default" and fed_wrongly):
            evidence = replace(evidence, batches=checks.batches(room))
    return evidence


def _three(false: Pass, true: Pass, recalibrated: Pass) -> ThreeWays:
    return ThreeWays(
        false.evaluation,
        true.evaluation,
        recalibrated.evaluation,
        by_true=checks.change(false, true),
        by_recalibrated=checks.change(false, recalibrated),
    )


def _shares(subject: Subject, moving: Snapshot, pooled: list[Moments], source: Snapshot | None) -> tuple[Share, ...]:
    layers = subject.layers
    now = [moving[layer.name] for layer in layers]
    found = [share_left("initial", layers, now, pooled, [initial(pair) for pair in now])]
    if source:
        found.append(share_left("source", layers, now, pooled, [source.get(layer.name) for layer in layers]))
    return tuple(share for share in found if share is not None)
