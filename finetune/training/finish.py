"""From the last step of training to the result: recalibration, averages, proof, evaluation, files, model card."""

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
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
from finetune.data.batches import EvalSet, training_subset
from finetune.data.dataset import Dataset
from finetune.data.label_sets import label_counts
from finetune.data.preprocessing import Preprocessing, find_preprocessing
from finetune.diagnosis import RECALIBRATION_IMAGES
from finetune.evaluation import metrics
from finetune.evaluation.evaluator import Evaluation, Evaluator, Pass
from finetune.evaluation.predictions import AnyPredictions, LabelPredictions
from finetune.evaluation.temperature import Temperature, calibration_at, fit_temperature, probabilities_at
from finetune.files import write_text
from finetune.reporting.rendering import render_card
from finetune.runs.directory import RunDir
from finetune.runs.model import refuse_broken_plan, run_scores
from finetune.runs.run_data import describe_data
from finetune.runs.views import with_views
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
    tested = score_test(feed, display, keep_logits=config.calibrate)
    test, predictions = tested.scores, tested.passed.images
    validation, thresholds, fitted = None, None, None
    if dataset.validation:
        validation, thresholds, fitted = score_validation(feed, display, calibrate=config.calibrate)
    averaged = _score_views(prepared, display) if config.tta else None
    save_stock(prepared.model, run.model_path)
    predictions.save(run.predictions_path)
    run.write_metrics([*history, *({"kind": "test", "statistics": name, **value} for name, value in test.items())])
    result = {
        "test": test,
        "weights": weights,
        "tta": {"kind": config.tta, "is_training_false": averaged.to_json()} if averaged else None,
        "validation_accuracy": history[-1].get("validation_accuracy"),
        "validation": validation,
        "thresholds": thresholds,
        "multi_label": labels_json(predictions, thresholds),
        "temperature_scaling": _scaling_json(fitted, tested.passed) if fitted else None,
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


@dataclass(frozen=True, eq=False)
class Tested:
    """Both evaluations of the test images as JSON values, and the pass with `is_training=False`."""

    scores: dict[str, Any]
    passed: Pass


def score_test(feed: Feed, display: Display, *, keep_logits: bool = False) -> Tested:
    """Score the test images under both kinds of statistics."""
    display.say("evaluating on test images")
    evaluator, images = feed.scoring("test", "moving", on_batch=display.batch)
    passed = evaluator.examine(images, "moving", keep_logits=keep_logits)
    both = {"is_training_false": passed.evaluation, "is_training_true": passed.evaluation}
    if bn_layers(feed.whole):  # without any, both modes are one
        evaluator, images = feed.scoring("test", "batch", on_batch=display.batch)
        both["is_training_true"] = evaluator.evaluate(images, "batch")
    return Tested({name: value.to_json() for name, value in both.items()}, passed)


def score_validation(
    feed: Feed, display: Display, *, calibrate: bool = False
) -> tuple[dict[str, Any], list[dict[str, Any]], Temperature | None]:
    """(scores of the validation images with `is_training=False`, the threshold of each class chosen on them, with
    `calibrate` the temperature fitted on them). The thresholds are of probabilities at that temperature."""
    display.say("evaluating on validation images")
    evaluator, images = feed.scoring("validation", on_batch=display.batch)
    passed = evaluator.examine(images, "moving", keep_logits=True)
    assert passed.logits is not None
    labels = passed.images.labels
    fitted = fit_temperature(passed.logits, labels) if calibrate else None
    probabilities = (
        passed.images.probabilities
        if isinstance(passed.images, LabelPredictions)
        else probabilities_at(passed.logits, fitted.temperature if fitted else 1.0)
    )
    chosen = metrics.thresholds(probabilities, labels)
    rows = [{"class": name, **asdict(one)} for name, one in zip(feed.dataset.class_names, chosen, strict=True)]
    return passed.evaluation.to_json(), rows, fitted


def _scaling_json(fitted: Temperature, tested: Pass) -> dict[str, Any]:
    """`temperature_scaling` of `result.json`. The test images are measured with it and have no part in it."""
    assert tested.logits is not None
    of_test = partial(calibration_at, tested.logits, tested.images.labels)
    return {**asdict(fitted), "test": {"before": of_test(1.0), "after": of_test(fitted.temperature)}}


def labels_json(predictions: AnyPredictions, thresholds: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    """`multi_label` of `result.json`: the test scores of several labels an image, each label decided by its threshold,
    and the average precision of each; None of single labels."""
    if not isinstance(predictions, LabelPredictions):
        return None
    limits = [one["threshold"] for one in thresholds or [{"threshold": None}] * predictions.labels.shape[1]]
    return {
        "at_thresholds": metrics.scores_at(predictions.probabilities, predictions.labels, limits),
        "average_precision": metrics.average_precisions(predictions.logits, predictions.labels),
    }


def _weights_json(prepared: Prepared) -> dict[str, float] | None:
    """The weight of each class, by its name."""
    weights = class_weights(prepared.dataset, prepared.config)
    return None if weights is None else dict(zip(prepared.dataset.class_names, weights.tolist(), strict=True))


def _score_views(prepared: Prepared, display: Display) -> Evaluation:
    """The views of each test image that --tta names, their probabilities averaged."""
    images = EvalSet(prepared.dataset.test, **batches.form(prepared.config))
    subject = KerasSubject(prepared.model, run_scores(prepared.model, multi_label=prepared.dataset.multi_label))
    averaged, given = with_views(subject, images, str(prepared.config.tta))
    return Evaluator(averaged, on_batch=display.batch).evaluate(given.batches(), "moving")


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
    last = {"model": LAST_STEP, "test": score_test(feed, recorder.display).scores}
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
    predictions: AnyPredictions,
) -> None:
    """Write the card of a run whose `result` is known, and its other JSON files written. `predictions`: of its test
    images, with `is_training=False`."""
    names = dataset.class_names
    pixels = find_preprocessing(str(config.preprocess))
    trained = label_counts(dataset.train.labels, len(names))
    thresholds = [one["threshold"] for one in result["thresholds"] or []] or [None] * len(names)
    if isinstance(predictions, LabelPredictions):
        chances, labels = predictions.probabilities, predictions.labels
        scores = metrics.class_scores(metrics.label_counts(metrics.decided(chances, thresholds), labels))
        sure, right = np.maximum(chances, 1 - chances).ravel(), ((chances >= 0.5) == labels).ravel()
    else:
        scores = metrics.per_class(predictions.labels, predictions.classes, len(names))
        sure, right = predictions.confidences, predictions.correct
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
        "balanced_accuracy": None if dataset.multi_label else metrics.balanced_accuracy(scores),
        "calibration_error": metrics.calibration(sure, right).expected_error,
        "environment": run.read("environment.json") if (run.path / "environment.json").is_file() else {},
    }
    write_text(run.path / CARD, render_card(facts))
