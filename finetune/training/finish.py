"""From the last step of training to the result: recalibration, averages, proof, evaluation, files."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from finetune import process
from finetune.backbone import save_stock
from finetune.batchnorm import decay
from finetune.batchnorm.statistics import KerasSubject, recalibrate
from finetune.batchnorm.surgery import bn_layers, parts
from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.batches import training_subset
from finetune.data.dataset import Dataset
from finetune.evaluation.evaluator import Evaluation, Evaluator, Mirrored
from finetune.evaluation.predictions import Predictions
from finetune.runs.directory import RunDir
from finetune.runs.model import refuse_broken_plan
from finetune.training import card_facts, proof
from finetune.training.display import Display
from finetune.training.loop.train import Feed
from finetune.training.phases import Phases
from finetune.training.prepare import Prepared
from finetune.training.tracking.trackers import Report

RECALIBRATION_IMAGES = 10_000
"""Precise BN needs 1k to 10k images (Wu & Johnson 2021, section 3.2)."""

LAST_STEP = "model-last-step.keras"
"""Beside `model.keras`, which holds the averages."""


@dataclass(frozen=True)
class Outcome:
    """The result of training, before anything is scored.

    history: a row per epoch. averages: with `ema`, each variable's average. digests: of all variables before training.
    expected: which of them may change. started: by the monotonic clock, s. feed: what the run was trained on. cached:
    what `result.json` says of cached features.
    """

    history: list[dict[str, Any]]
    averages: dict[str, np.ndarray] | None
    phases: Phases
    digests: dict[str, str]
    expected: dict[str, bool]
    started: float
    feed: Feed
    cached: dict[str, Any] | None


def finish(run: RunDir, prepared: Prepared, display: Display, report: Report, outcome: Outcome) -> None:
    """Everything that follows the last step, until `result.json`. FinetuneError where a freeze plan was broken."""
    config, model, dataset = prepared.config, prepared.model, prepared.dataset
    proofs, updates = outcome.phases.close(), outcome.phases.updates(len(outcome.history))
    recalibrated = bool(config.recalibrate_at_end) and _recalibrate_updating(prepared, display)
    weights: dict[str, Any] = {"kind": "best-epoch" if config.patience else "last-step"}
    if outcome.averages is not None:
        weights = _take_averages(run, prepared, display, outcome, outcome.averages)
        recalibrated = weights["statistics"] == "recalibrated"
    proved = proof.prove(outcome.digests, proof.digests(model), outcome.expected)
    test, predictions = _score(outcome.feed, display)
    flipped = _score_flipped(prepared, display) if config.tta == "flip" else None
    save_stock(model, run.model_path)
    predictions.save(run.predictions_path)
    rows = [*outcome.history, *({"kind": "test", "statistics": name, **value} for name, value in test.items())]
    run.write_metrics(rows)
    result = {
        "test": test,
        "weights": weights,
        "tta": {"kind": config.tta, "is_training_false": flipped.to_json()} if flipped else None,
        "validation_accuracy": outcome.history[-1].get("validation_accuracy"),
        "bn": _bn_json(model, config, updates=updates, recalibrated=recalibrated),
        "proof": {
            **proved.to_json(),
            "without_gradient": proof.without_gradient(model, proved),
            "holds": proved.holds and all(one["holds"] for one in proofs),
            **({"phases": proofs} if proofs else {}),
        },
        **_counts_json(dataset, outcome),
    }
    card_facts.write(run, prepared, result, predictions)
    report(lambda one: one.end(result))
    run.write("result.json", result)
    run.state_path.unlink(missing_ok=True)
    refuse_broken_plan(run)


def _score(feed: Feed, display: Display) -> tuple[dict[str, Any], Predictions]:
    """Both evaluations of the test images as JSON values, and the predictions with `is_training=False`."""
    display.say("evaluating on test images")
    evaluator, images = feed.scoring("test", "moving", on_batch=display.batch)
    passed = evaluator.examine(images, "moving")
    evaluator, images = feed.scoring("test", "batch", on_batch=display.batch)
    both = {"is_training_false": passed.evaluation, "is_training_true": evaluator.evaluate(images, "batch")}
    return {name: value.to_json() for name, value in both.items()}, passed.images


def _score_flipped(prepared: Prepared, display: Display) -> Evaluation:
    """Each test image and its mirror image, their probabilities averaged."""
    evaluator = Evaluator(Mirrored(KerasSubject(prepared.model)), on_batch=display.batch)
    return evaluator.evaluate(batches.evaluation(prepared.dataset.test, prepared.config), "moving")


def _bn_json(model: keras.Model, config: RunConfig, *, updates: int, recalibrated: bool) -> dict[str, Any]:
    """`bn` of `result.json`."""
    bn_decay = float(config.bn_decay)
    return {
        "layers": len(bn_layers(model)),
        "decay": bn_decay,
        "updates": updates,
        "renorm": config.bn_renorm,
        "zero_debias": config.bn_zero_debias,
        "residual": decay.residual(bn_decay, updates),
        "residual_mean": decay.residual(bn_decay, updates, zero_debias=config.bn_zero_debias),
        "recalibrated": recalibrated,
    }


def _counts_json(dataset: Dataset, outcome: Outcome) -> dict[str, Any]:
    """What `result.json` says of the data and of the cost of the run."""
    history = outcome.history
    return {
        "cached_features": outcome.cached,
        "class_names": list(dataset.class_names),
        "data_fingerprint": dataset.fingerprint(),
        "train_images": len(dataset.train),
        "skipped_images": len(dataset.skipped),
        "epochs": len(history),
        "steps": history[-1]["step"],
        "train_seconds": round(sum(row["seconds"] for row in history), 1),
        "seconds": round(time.monotonic() - outcome.started, 1),
        "peak_memory_mib": process.peak_memory_mib(),
    }


def _take_averages(
    run: RunDir, prepared: Prepared, display: Display, outcome: Outcome, averages: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Give the model the averaged weights, and keep the last step's model as LAST_STEP. Returns `weights` of it.

    The moving statistics belong to the last weights. Under averaged weights every layer has other inputs, and test
    accuracy suffers (tensorflow/tensorflow#30274). So they are recalibrated, where any layer updates them.
    """
    model = prepared.model
    last = {"model": LAST_STEP, "test": _score(outcome.feed, display)[0]}
    save_stock(model, run.path / LAST_STEP)
    for part in parts(model):
        for variable in part.weights:
            if variable.path in averages:
                variable.assign(averages[variable.path])
    recalibrated = _recalibrate_updating(prepared, display)
    statistics = "recalibrated" if recalibrated else "unchanged"
    return {"kind": "averaged", "ema": prepared.config.ema, "statistics": statistics, "last_step": last}


def _recalibrate_updating(prepared: Prepared, display: Display) -> bool:
    """Recalibrate the statistics that the plan updates; frozen ones stay, to the bit. Returns whether there are any."""
    model, config, train = prepared.model, prepared.config, prepared.dataset.train
    fixed = {layer.name for layer in bn_layers(model) if not (layer.statistics == "batch" and layer.updates)}
    if len(fixed) == len(bn_layers(model)):
        return False
    display.say("recalibrating the moving statistics on training images")
    subject = KerasSubject(model)
    before = subject.snapshot()
    subset = training_subset(train, config, max(RECALIBRATION_IMAGES, len(prepared.dataset.class_names)))
    recalibrate(subject, (images for images, _, _ in batches.evaluation(subset, config)))
    after = subject.snapshot()
    subject.restore({name: before[name] if name in fixed else after[name] for name in after})
    return True
