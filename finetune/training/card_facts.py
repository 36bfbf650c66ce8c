"""`MODEL_CARD.md`: describes the model of a finished run to people who did not train it."""

from dataclasses import asdict
from typing import Any

import numpy as np

from finetune.data.preprocessing import Preprocessing, find_preprocessing
from finetune.evaluation import metrics
from finetune.evaluation.predictions import Predictions
from finetune.files import write_text
from finetune.reporting.model_card import render_card
from finetune.runs.directory import RunDir
from finetune.runs.run_data import describe_data
from finetune.training.prepare import Prepared

NAME = "MODEL_CARD.md"


def write(run: RunDir, prepared: Prepared, result: dict[str, Any], predictions: Predictions) -> None:
    """Write the card of a run whose result is known. `predictions`: of its test images, with `is_training=False`."""
    config, dataset, spec = prepared.config, prepared.dataset, prepared.backbone.spec
    names = dataset.class_names
    scores = metrics.per_class(predictions.labels, predictions.classes, len(names))
    report = prepared.backbone.report
    trained = np.bincount(dataset.train.labels, minlength=len(names))
    facts = {
        "name": run.path.absolute().name,
        "backbone": {
            "id": spec.id,
            "label": spec.label,
            "reference": spec.reference,
            "parameters": int(sum(np.prod(variable.shape) for variable in prepared.model.variables)),
            "url": spec.url if config.checkpoint is None else None,
            "module": spec.source == "hub",
        },
        "weights": None if report is None else report.to_json(),
        "config": config.to_json(),
        "data": describe_data(dataset),
        "preprocessing": _preprocessing(str(config.preprocess)),
        "plan": prepared.plan.stages(),
        "result": result,
        "classes": [
            {"name": name, "training": int(images), **asdict(score)}
            for name, images, score in zip(names, trained, scores, strict=True)
        ],
        "macro_f1": metrics.macro_f1(scores),
        "calibration_error": metrics.calibration(predictions.confidences, predictions.correct).expected_error,
        "environment": run.read("environment.json") if (run.path / "environment.json").is_file() else {},
    }
    write_text(run.path / NAME, render_card(facts))


def _preprocessing(name: str) -> dict[str, Any]:
    """The name of a preprocessing, with its arithmetic where it is a known one."""
    found = find_preprocessing(name)
    return {"name": name, **(asdict(found) if isinstance(found, Preprocessing) else {"scale": None})}
