"""Diagnose the model of a run, and apply the remedy where the statistics are the cause."""

import errno
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune import batches, models
from finetune.batchnorm.statistics import KerasSubject, recalibrate
from finetune.batchnorm.subject import Statistics
from finetune.batchnorm.surgery import bn_layers
from finetune.data.dataset import Dataset, Split
from finetune.diagnosis.evidence import SCHEMA_VERSION, BNEvidence
from finetune.diagnosis.measure import examine
from finetune.diagnosis.verdict import Verdict, differs, judge
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation import Evaluation, Evaluator

TRAINING_IMAGES = 2_000
"""Training images a diagnosis looks at, unless told otherwise."""


@dataclass(frozen=True)
class Diagnosis:
    """What was measured on which model, and what it means."""

    target: str
    evidence: BNEvidence
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """The report of `diagnose-bn --json`, and `bn.json`."""
        evidence = self.evidence
        return {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "accuracy": evidence.accuracy_json(),
            "examples": {
                "test": evidence.test.is_training_false.examples,
                "train": evidence.train.is_training_false.examples,
            },
            "decay": evidence.decay,
            "updates": evidence.updates,
            "residual": evidence.residual,
            "verdict": self.verdict.to_json(),
            "layers": evidence.layers_json(),
        }


def diagnose(
    target: Path,
    *,
    data_dir: Path | None = None,
    images: int = TRAINING_IMAGES,
    on_batch: Callable[[], None] | None = None,
) -> Diagnosis:
    """Diagnose a run directory's model (or another `.keras` file in it) on the run's own data.

    Writes `bn.json` into the run when the target is the run's own model, unless the run may only be read, as somebody
    else's. `data_dir` tells where the data is now.
    """
    trained = models.open_trained(target)
    config = _at(trained.config, data_dir)
    dataset = models.load_data(config)
    check_classes(trained, dataset)
    subset = models.training_subset(dataset.train, config, images)
    evidence = examine(
        KerasSubject(trained.model),
        test=lambda: batches.evaluation(dataset.test, config),
        train=lambda: batches.evaluation(subset, config),
        source=models.load_snapshot(trained.run),
        on_batch=on_batch,
        **_known(trained),
    )
    diagnosis = Diagnosis(str(target), evidence, judge(evidence, target=shlex.quote(str(target))))
    if trained.path == trained.run.model_path:
        try:
            trained.run.write("bn.json", diagnosis.to_json())
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
    return diagnosis


def evaluate_run(
    target: Path,
    *,
    data_dir: Path | None = None,
    split: str = "test",
    statistics: Statistics = "moving",
    on_batch: Callable[[], None] | None = None,
) -> Evaluation:
    """Score a run's model on one of its splits, without augmentation. FinetuneError where there is no such split."""
    trained = models.open_trained(target)
    config = _at(trained.config, data_dir)
    dataset = models.load_data(config)
    check_classes(trained, dataset)
    images: Split | None = getattr(dataset, split)
    if images is None:
        raise FinetuneError(f"{target} has no validation images: it ran with --validation 0; use --split test")
    return Evaluator(KerasSubject(trained.model), on_batch=on_batch).evaluate(
        batches.evaluation(images, config), statistics
    )


@dataclass(frozen=True)
class Recalibration:
    """Test accuracy with `is_training=False` before and after, and the new file."""

    before: Evaluation
    after: Evaluation
    images: int
    path: Path

    def to_json(self) -> dict[str, Any]:
        """For `recalibrate-bn --json`."""
        return {
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "images": self.images,
            "model": str(self.path),
        }


def recalibrate_bn(
    target: Path,
    *,
    out: Path | None = None,
    data_dir: Path | None = None,
    images: int = 10_000,
    on_batch: Callable[[], None] | None = None,
) -> Recalibration:
    """Write a copy of the model whose moving statistics are those of `images` training images.

    The copy goes beside the old model (`model-recalibrated.keras`) or to `out`; nothing is overwritten.
    Raises WrongUse where the new file is there already, FinetuneError where recalibrating makes the model worse:
    then the network was trained around its old statistics.
    """
    trained = models.open_trained(target)
    if not bn_layers(trained.model):
        raise FinetuneError(f"{trained.path} has no BatchNormalization layer: there is nothing to recalibrate")
    path = out or trained.path.with_name(f"{trained.path.stem}-recalibrated.keras")
    if path.suffix != ".keras":
        raise WrongUse(f"--out {path} must end in .keras, the format it is written in")
    if path.exists():
        raise WrongUse(f"{path} is already there and is not overwritten: give another name with --out")
    if not path.absolute().parent.is_dir():
        raise WrongUse(f"--out {path}: there is no directory {path.parent}; make it, or give another name with --out")
    if not os.access(path.absolute().parent, os.W_OK):
        raise FinetuneError(f"no permission to write {path}: give another place with --out")
    config = _at(trained.config, data_dir)
    dataset = models.load_data(config)
    check_classes(trained, dataset)
    subset = models.training_subset(dataset.train, config, images)
    subject = KerasSubject(trained.model)
    evaluator = Evaluator(subject, on_batch=on_batch)
    before = evaluator.evaluate(batches.evaluation(dataset.test, config))
    recalibrate(subject, (batch for batch, _, _ in batches.evaluation(subset, config)))
    after = evaluator.evaluate(batches.evaluation(dataset.test, config))
    if differs(before, after) and after.accuracy < before.accuracy:
        raise FinetuneError(
            f"recalibrating makes {trained.path} worse ({before.accuracy:.1%} -> {after.accuracy:.1%} on test images): "
            "the network was trained around its old statistics. Nothing was written; for the cause: "
            f"finetune diagnose-bn {shlex.quote(str(target))}"
        )
    models.save(trained.model, path)
    return Recalibration(before, after, len(subset), path)


def check_classes(trained: models.Trained, dataset: Dataset) -> None:
    """FinetuneError where the data's classes are not those the model was trained for."""
    outputs, names = trained.model.output_shape[-1], list(dataset.class_names)
    if outputs != len(names):
        raise FinetuneError(
            f"{trained.path} has {outputs} outputs, but the data has {len(names)} classes: give the data of the run, "
            "or put the model beside its own config.json"
        )
    if trained.run.status == "done":
        expected = trained.run.read("result.json", "class_names")["class_names"]
        if names != expected:
            raise FinetuneError(
                f"the data has classes {', '.join(names[:5])}..., but {trained.path} was trained for "
                f"{', '.join(expected[:5])}...: give the data of the run"
            )


def _at(config: Any, data_dir: Path | None) -> Any:
    return replace(config, data_dir=str(data_dir)) if data_dir else config


def _known(trained: models.Trained) -> dict[str, Any]:
    """What the run's records say about how the model came to be."""
    if trained.run.status != "done":
        return {}
    result = trained.run.read("result.json", "bn", "proof")
    bn = result["bn"]
    policies = {name for row in trained.run.read("freeze.json", "stages")["stages"] for name in row["bn"]}
    recalibrated = bn["recalibrated"] or trained.path != trained.run.model_path
    return {
        "decay": None if recalibrated else bn["decay"],
        "updates": None if recalibrated else bn["updates"],
        "updates_enabled": trained.config.bn_updates == "on",
        "trained_with": "batch" if policies & {"train", "stats"} else "moving",
        "weights_moved": result["proof"]["moving_variables"] > len(result["proof"]["unmoved"]),
    }
