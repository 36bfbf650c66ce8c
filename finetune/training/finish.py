"""From the last step of training to the result: recalibration, averages, proof, evaluation, files, model card."""

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import keras
import numpy as np

from finetune import process
from finetune.backbone import BackboneSpec, save_stock
from finetune.batchnorm import decay
from finetune.batchnorm.statistics import KerasSubject, recalibrate
from finetune.batchnorm.subject import Subject
from finetune.batchnorm.surgery import bn_layers, parts
from finetune.config import CHANGES, RunConfig
from finetune.data import batches
from finetune.data.balance import class_weights
from finetune.data.batches import training_subset
from finetune.data.dataset import Dataset
from finetune.data.preprocessing import Preprocessing, find_preprocessing
from finetune.diagnosis import RECALIBRATION_IMAGES
from finetune.evaluation import metrics
from finetune.evaluation.evaluator import Evaluation, Evaluator, Mirrored
from finetune.evaluation.predictions import Predictions
from finetune.files import write_text
from finetune.reporting.rendering import render_card
from finetune.runs.directory import RunDir
from finetune.runs.model import refuse_broken_plan
from finetune.runs.run_data import describe_data
from finetune.text import shape_of
from finetune.training.display import Display
from finetune.training.loop.train import Feed
from finetune.training.observers import Recorder
from finetune.training.phases import Prepared
from finetune.training.proof import Phases

LAST_STEP = "model-last-step.keras"
"""Beside `model.keras`, which holds the averages."""

CARD = "MODEL_CARD.md"
"""Describes the model of a finished run to people who did not train it."""


def finish(
    recorder: Recorder, phases: Phases, feed: Feed, history: list[dict[str, Any]], cached: dict[str, Any] | None
) -> None:
    """Everything that follows the last step, until `result.json`.

    feed: what the run was trained on. history: a row per epoch. cached: what `result.json` says of cached features.
    FinetuneError where a freeze plan was broken.
    """
    run, prepared, display = recorder.run, recorder.prepared, recorder.display
    config, dataset = prepared.config, prepared.dataset
    proofs, updates = phases.close(), prepared.updates(len(history))
    recalibrated = bool(config.recalibrate_at_end) and _recalibrate_updating(prepared, display)
    weights: dict[str, Any] = {"kind": "best-epoch" if config.patience else "last-step"}
    if recorder.averages is not None:
        weights = _take_averages(recorder, feed, recorder.averages, epochs=len(history))
        recalibrated = weights["statistics"] == "recalibrated"
    proof = phases.proof(proofs)
    test, predictions = score_test(feed, display)
    validation, thresholds = score_validation(feed, display) if dataset.validation else (None, None)
    flipped = _score_flipped(prepared, display) if config.tta == "flip" else None
    save_stock(prepared.model, run.model_path)
    predictions.save(run.predictions_path)
    run.write_metrics([*history, *({"kind": "test", "statistics": name, **value} for name, value in test.items())])
    result = {
        "test": test,
        "weights": weights,
        "tta": {"kind": config.tta, "is_training_false": flipped.to_json()} if flipped else None,
        "validation_accuracy": history[-1].get("validation_accuracy"),
        "validation": validation,
        "thresholds": thresholds,
        "class_weights": _weights_json(prepared),
        "bn": _bn_json(prepared, updates=updates, recalibrated=recalibrated),
        "proof": proof,
        "cached_features": cached,
        "class_names": list(dataset.class_names),
        "data_fingerprint": dataset.fingerprint(),
        "train_images": len(dataset.train),
        "skipped_images": len(dataset.skipped),
        "epochs": len(history),
        "steps": history[-1]["step"],
        "train_seconds": round(sum(row["seconds"] for row in history), 1),
        "seconds": round(time.monotonic() - recorder.started, 1),
        "peak_memory_mib": process.peak_memory_mib(),
    }
    write_card(run, config, prepared.backbone.spec, dataset, prepared.model, result, predictions)
    recorder.report(lambda one: one.end(result))
    run.write("result.json", result)
    run.state_path.unlink(missing_ok=True)
    refuse_broken_plan(run)


def score_test(feed: Feed, display: Display) -> tuple[dict[str, Any], Predictions]:
    """Both evaluations of the test images as JSON values, and the predictions with `is_training=False`."""
    display.say("evaluating on test images")
    evaluator, images = feed.scoring("test", "moving", on_batch=display.batch)
    passed = evaluator.examine(images, "moving")
    evaluator, images = feed.scoring("test", "batch", on_batch=display.batch)
    both = {"is_training_false": passed.evaluation, "is_training_true": evaluator.evaluate(images, "batch")}
    return {name: value.to_json() for name, value in both.items()}, passed.images


def score_validation(feed: Feed, display: Display) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(scores of the validation images with `is_training=False`, the threshold of each class chosen on them)."""
    display.say("evaluating on validation images")
    evaluator, images = feed.scoring("validation", on_batch=display.batch)
    scores, probabilities, labels = evaluator.probabilities(images)
    chosen = metrics.thresholds(probabilities, labels)
    rows = [{"class": name, **asdict(one)} for name, one in zip(feed.dataset.class_names, chosen, strict=True)]
    return scores.to_json(), rows


def _weights_json(prepared: Prepared) -> dict[str, float] | None:
    """The weight of each class, by its name."""
    weights = class_weights(prepared.dataset, prepared.config)
    return None if weights is None else dict(zip(prepared.dataset.class_names, weights.tolist(), strict=True))


def _score_flipped(prepared: Prepared, display: Display) -> Evaluation:
    """Each test image and its mirror image, their probabilities averaged."""
    evaluator = Evaluator(Mirrored(KerasSubject(prepared.model)), on_batch=display.batch)
    return evaluator.evaluate(batches.evaluation(prepared.dataset.test, prepared.config), "moving")


def _bn_json(prepared: Prepared, *, updates: int, recalibrated: bool) -> dict[str, Any]:
    """`bn` of `result.json`."""
    config, bn_decay = prepared.config, float(prepared.config.bn_decay)
    return {
        "layers": len(bn_layers(prepared.model)),
        "decay": bn_decay,
        "updates": updates,
        "renorm": config.bn_renorm,
        "zero_debias": config.bn_zero_debias,
        "residual": decay.residual(bn_decay, updates),
        "residual_mean": decay.residual(bn_decay, updates, zero_debias=config.bn_zero_debias),
        "recalibrated": recalibrated,
    }


def _take_averages(
    recorder: Recorder, feed: Feed, averages: Mapping[str, np.ndarray], *, epochs: int
) -> dict[str, Any]:
    """Give the model the averaged weights, and keep the last step's model as LAST_STEP. Returns `weights` of it.

    The moving statistics belong to the last weights. Under averaged weights every layer has other inputs, and test
    accuracy suffers (tensorflow/tensorflow#30274). So they are recalibrated, where any layer updates them. The accuracy
    that the average has without it is kept too.
    """
    prepared, model = recorder.prepared, recorder.prepared.model
    last = {"model": LAST_STEP, "test": score_test(feed, recorder.display)[0]}
    save_stock(model, recorder.run.path / LAST_STEP)
    for part in parts(model):
        for variable in part.weights:
            if variable.path in averages:
                variable.assign(averages[variable.path])
    evaluator, images = feed.scoring("test", on_batch=recorder.display.batch)
    before = {"is_training_false": evaluator.evaluate(images).to_json()} if updating_layers(model) else None
    first = max(prepared.config.swa_start or 0, prepared.phases[-1].first_epoch + 1)
    return {
        "kind": "averaged",
        "ema": prepared.config.ema,
        "swa_start": prepared.config.swa_start,
        "averaged_epochs": None if prepared.config.swa_start is None else epochs - first + 1,
        "statistics": "recalibrated" if _recalibrate_updating(prepared, recorder.display) else "unchanged",
        "before_recalibration": before,
        "last_step": last,
    }


def updating_layers(model: keras.Model) -> set[str]:
    """The names of the BatchNorm layers whose moving statistics training updates, as the switches are set."""
    return {layer.name for layer in bn_layers(model) if layer.statistics == "batch" and layer.updates}


def _recalibrate_updating(prepared: Prepared, display: Display) -> bool:
    """Recalibrate the statistics that the plan updates; frozen ones stay, to the bit. Returns whether there are any."""
    updating = updating_layers(prepared.model)
    if updating:
        display.say("recalibrating the moving statistics on training images")
        recalibrate_layers(KerasSubject(prepared.model), updating, prepared.dataset, prepared.config)
    return bool(updating)


def recalibrate_layers(subject: Subject, names: Collection[str], dataset: Dataset, config: RunConfig) -> None:
    """Recalibrate the statistics of the BatchNorm layers called `names`, on training images; the others stay, to the
    bit."""
    before = subject.snapshot()
    subset = training_subset(dataset.train, config, max(RECALIBRATION_IMAGES, len(dataset.class_names)))
    recalibrate(subject, (images for images, _, _ in batches.evaluation(subset, config)))
    after = subject.snapshot()
    subject.restore({name: after[name] if name in names else before[name] for name in after})


def _arithmetic(pixels: Preprocessing, config: RunConfig) -> dict[str, Any]:
    """A known preprocessing in numbers, for the channels of the network."""
    channels = shape_of(config.image_size or 0).channels
    both = {name: pixels.of_channels(getattr(pixels, name), channels) for name in ("mean", "std")}
    order = pixels.channels.upper() + ("A" if channels == 4 else "")
    bgr = {3: ", ..., ::-1", 4: ", ..., [2, 1, 0, 3]"} if pixels.channels == "bgr" else {}
    return asdict(pixels) | {
        **both,
        "order": "one channel" if channels == 1 else f"channels in the order {order}",
        "index": ", ..., None" if channels == 1 else bgr.get(channels, ""),
    }


def write_card(
    run: RunDir,
    config: RunConfig,
    spec: BackboneSpec,
    dataset: Dataset,
    model: keras.Model,
    result: dict[str, Any],
    predictions: Predictions,
) -> None:
    """Write the card of a run whose `result` is known, and its other JSON files written. `predictions`: of its test
    images, with `is_training=False`."""
    names = dataset.class_names
    scores = metrics.per_class(predictions.labels, predictions.classes, len(names))
    pixels = find_preprocessing(str(config.preprocess))
    trained = np.bincount(dataset.train.labels, minlength=len(names))
    thresholds = [one["threshold"] for one in result["thresholds"] or []] or [None] * len(names)
    facts = {
        "name": run.path.absolute().name,
        "backbone": {
            "id": spec.id,
            "label": spec.label,
            "reference": spec.reference,
            "parameters": int(sum(np.prod(variable.shape) for variable in model.variables)),
            "url": spec.url if config.checkpoint is None else None,
            "module": spec.source == "hub",
        },
        "weights": run.read("load.json") if (run.path / "load.json").is_file() else None,
        "config": config.to_json(),
        "changes": [config.as_option(name) for name in CHANGES if config.is_set(name)],
        "data": describe_data(dataset, config),
        "input": shape_of(config.image_size or 0)._asdict(),
        # With its arithmetic where it is a known one.
        "preprocessing": {
            "name": config.preprocess,
            **(_arithmetic(pixels, config) if isinstance(pixels, Preprocessing) else {"scale": None}),
        },
        "plan": run.read("freeze.json", "stages")["stages"],
        "result": result,
        "classes": [
            {"name": name, "training": int(images), "threshold": threshold, **asdict(score)}
            for name, images, score, threshold in zip(names, trained, scores, thresholds, strict=True)
        ],
        "macro_f1": metrics.macro_f1(scores),
        "balanced_accuracy": metrics.balanced_accuracy(scores),
        "calibration_error": metrics.calibration(predictions.confidences, predictions.correct).expected_error,
        "environment": run.read("environment.json") if (run.path / "environment.json").is_file() else {},
    }
    write_text(run.path / CARD, render_card(facts))
