"""A model with its data and the known facts of both: all that a diagnosis and its remedy need."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.batchnorm.subject import Subject
from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.batches import EvalSet, training_subset
from finetune.data.dataset import Dataset
from finetune.data.load_data import load_data
from finetune.data.preprocessing import PREPROCESSINGS, find_preprocessing
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.targets.options import TargetOptions
from finetune.diagnosis.targets.origin import History
from finetune.errors import FinetuneError, WrongUse

BATCH_SIZE = 64


@dataclass(frozen=True, eq=False)
class Data:
    """The data of a model, in the form it takes. preprocessing: in place of the one `config` names."""

    dataset: Dataset
    config: RunConfig
    preprocessing: str | None = None

    def test(self) -> EvalSet:
        """Test images in the data's own order."""
        return EvalSet(self.dataset.test, **self._form())

    def training(self, images: int) -> EvalSet:
        """At most so many training images, stratified and in random order. WrongUse for fewer than classes."""
        return EvalSet(training_subset(self.dataset.train, self.config, images), **self._form())

    def _form(self) -> dict[str, Any]:
        form = batches.form(self.config)
        return form if self.preprocessing is None else form | {"preprocessing": find_preprocessing(self.preprocessing)}


@dataclass(frozen=True, eq=False)
class Target:
    """A model to diagnose.

    name: as the user wrote it. write: writes the subject with its present statistics to a new file of the format that
    was read. copy: the default path of that file; suffix: what its name must end in (None: it is a prefix, or a
    directory). notes: how the model was opened, for people. record: keeps the report of a diagnosis with the target.
    """

    name: str
    subject: Subject
    data: Data
    commands: Commands
    write: Callable[[Path], None]
    copy: Path
    history: History
    suffix: str | None = ".keras"
    notes: tuple[str, ...] = ()
    record: Callable[[dict[str, Any]], None] = lambda report: None


def read_data(
    request: TargetOptions,
    name: str,
    outputs: int,
    *,
    image_size: int,
    preprocess: str | None,
    batch_size: int | None = None,
) -> Data:
    """The data a request names, for the model `name` with so many outputs.

    `image_size`, in px, and `preprocess` are what is known of the weights; the request's own replace them. `batch_size`
    is the only one the model takes, where it takes only one. FinetuneError where the data does not fit the model.
    """
    chosen = request.preprocess or preprocess
    if not chosen:
        raise WrongUse(
            "missing --preprocess: the file does not say how its pixels were prepared; give one of "
            f"{', '.join(PREPROCESSINGS)}, or MODULE:FUNCTION of your own ('raw' where the model does it itself)"
        )
    if batch_size and request.batch_size and request.batch_size % batch_size:
        raise WrongUse(
            f"--batch-size {request.batch_size} is not valid: the graph takes exactly {batch_size} images; leave it out"
        )
    config = RunConfig(
        "",
        data=request.data or "cifar10",
        data_dir=str(request.data_dir) if request.data_dir else None,
        validation=0.0,
        image_size=request.image_size or image_size,
        preprocess=chosen,
        batch_size=request.batch_size or batch_size or BATCH_SIZE,
    )
    dataset = load_data(config)
    for name, split in (("test", dataset.test), ("training", dataset.train)):
        if batch_size and len(split) < batch_size:
            raise FinetuneError(
                f"{dataset.source} has {len(split)} {name} images, but the graph takes {batch_size} at once: "
                "expected at least one batch"
            )
    data = Data(dataset, config)
    check_classes(name, outputs, data)
    return data


def check_classes(name: str, outputs: int, data: Data) -> None:
    """FinetuneError where a model has not as many outputs as the data has classes."""
    classes = len(data.dataset.class_names)
    if outputs != classes:
        background = (
            " (a background class would be one more: number the data's labels so)" if outputs - 1 == classes else ""
        )
        raise FinetuneError(
            f"{name} has {outputs} outputs, but {data.dataset.source} has {classes} classes{background}: give the data "
            "it was trained for with --data and --data-dir"
        )
