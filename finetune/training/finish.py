"""From the last step of training to the result: recalibration, averages, proof, evaluation, files."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from finetune import process
from finetune.backbone.keras_file import save_stock
from finetune.batchnorm import decay
from finetune.batchnorm.statistics import KerasSubject, recalibrate
from finetune.batchnorm.surgery import bn_layers
from finetune.config.run_config import RunConfig
from finetune.data import batches
from finetune.data.batches import training_subset
from finetune.data.dataset import Dataset
from finetune.evaluation.evaluator import Evaluator
from finetune.evaluation.flip import Mirrored
from finetune.evaluation.predictions import Predictions
from finetune.runs.directory import RunDir
from finetune.runs.model import refuse_broken_plan
from finetune.training import card_facts, ema, proof
from finetune.training.display import Display
from finetune.training.loop.feed import Feed, ImageFeed
from finetune.training.phases import Phases
from finetune.training.prepare import Prepared
from finetune.training.tracking.trackers import Trackers

RECALIBRATION_IMAGES = 10_000
"""Precise BN needs 1k to 10k images (Wu & Johnson 2021, section 3.2)."""


@dataclass(frozen=True)
class Outcome:
    """What training leaves behind: a row per epoch; with `ema` each variable's average; the digests of all variables
    at its start and which of them were to move; when it started, by the monotonic clock; where features were cached,
    their feed and what is said of them."""

    history: list[dict[str, Any]]
    averages: dict[str, np.ndarray] | None
    phases: Phases
    digests: dict[str, str]
    expected: dict[str, bool]
    started: float
    feed: Feed | None
    cached: dict[str, Any] | None


def finish(run: RunDir, prepared: Prepared, display: Display, trackers: Trackers, trained: Outcome) -> None:
    """Everything that follows the last step, until `result.json`. FinetuneError where a freeze plan was broken."""
    config, model, dataset = prepared.config, prepared.model, prepared.dataset
    proofs, updates = trained.phases.close(), trained.phases.updates(len(trained.history))
    recalibrated = bool(config.recalibrate_at_end) and _recalibrate_updating(model, dataset, config, display)
    feed = trained.feed or ImageFeed(model, dataset, config)

    def score() -> tuple[dict[str, Any], Predictions]:
        display.say("evaluating on test images")
        evaluator, images = feed.scoring("test", "moving", on_batch=display.batch)
        passed = evaluator.examine(images, "moving")
        evaluator, images = feed.scoring("test", "batch", on_batch=display.batch)
        both = {"is_training_false": passed.evaluation, "is_training_true": evaluator.evaluate(images, "batch")}
        return {name: value.to_json() for name, value in both.items()}, passed.images

    weights: dict[str, Any] = {"kind": "best-epoch" if config.patience else "last-step"}
    if trained.averages is not None and config.ema is not None:
        recalibrate = partial(_recalibrate_updating, model, dataset, config, display)
        weights = ema.take_over(
            run, model, trained.averages, decay=config.ema, score=lambda: score()[0], recalibrate=recalibrate
        )
        recalibrated = weights["statistics"] == "recalibrated"
    proved = proof.prove(trained.digests, proof.digests(model), trained.expected)
    kept = proved.holds and all(one["holds"] for one in proofs)
    test, predictions = score()
    flipped = None
    if config.tta == "flip":
        both = Evaluator(Mirrored(KerasSubject(model)), on_batch=display.batch)
        flipped = both.evaluate(batches.evaluation(dataset.test, config), "moving")
    save_stock(model, run.model_path)
    predictions.save(run.predictions_path)
    rows = [*trained.history, *({"kind": "test", "statistics": name, **value} for name, value in test.items())]
    run.write_metrics(rows)
    bn_decay = float(config.bn_decay)
    result = {
        "test": test,
        "weights": weights,
        "tta": {"kind": config.tta, "is_training_false": flipped.to_json()} if flipped else None,
        "validation_accuracy": trained.history[-1].get("validation_accuracy"),
        "bn": {
            "layers": len(bn_layers(model)),
            "decay": bn_decay,
            "updates": updates,
            "renorm": config.bn_renorm,
            "zero_debias": config.bn_zero_debias,
            "residual": decay.residual(bn_decay, updates),
            "residual_mean": decay.residual(bn_decay, updates, zero_debias=config.bn_zero_debias),
            "recalibrated": recalibrated,
        },
        "proof": {
            **proved.to_json(),
            "without_gradient": proof.without_gradient(model, proved),
            "holds": kept,
            **({"phases": proofs} if proofs else {}),
        },
        "cached_features": trained.cached,
        "class_names": list(dataset.class_names),
        "data_fingerprint": dataset.fingerprint(),
        "train_images": len(dataset.train),
        "skipped_images": len(dataset.skipped),
        "epochs": len(trained.history),
        "steps": trained.history[-1]["step"],
        "train_seconds": round(sum(row["seconds"] for row in trained.history), 1),
        "seconds": round(time.monotonic() - trained.started, 1),
        "peak_memory_mib": process.peak_memory_mib(),
    }
    card_facts.write(run, prepared, result, predictions)
    trackers.end(result)
    run.write("result.json", result)
    run.state_path.unlink(missing_ok=True)
    refuse_broken_plan(run)


def _recalibrate_updating(model: keras.Model, dataset: Dataset, config: RunConfig, display: Display) -> bool:
    """Recalibrate what the plan lets update; frozen statistics stay, to the bit. Whether any were recalibrated."""
    fixed = {layer.name for layer in bn_layers(model) if not (layer.statistics == "batch" and layer.updates)}
    if len(fixed) == len(bn_layers(model)):
        return False
    display.say("recalibrating the moving statistics on training images")
    subject = KerasSubject(model)
    before = subject.snapshot()
    subset = training_subset(dataset.train, config, max(RECALIBRATION_IMAGES, len(dataset.class_names)))
    recalibrate(subject, (images for images, _, _ in batches.evaluation(subset, config)))
    after = subject.snapshot()
    subject.restore({name: before[name] if name in fixed else after[name] for name in after})
    return True
