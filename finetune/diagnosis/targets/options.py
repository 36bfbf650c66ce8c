"""What a user says about the model to examine: all options of `diagnose-bn` and `recalibrate-bn` that open it."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from finetune.config.run_config import RunConfig
from finetune.data import batches
from finetune.data.batches import training_subset
from finetune.data.dataset import Dataset
from finetune.data.evalset import EvalSet
from finetune.data.load_data import load_data
from finetune.data.preprocessing import PREPROCESSINGS
from finetune.errors import FinetuneError, WrongUse

BATCH_SIZE = 64


@dataclass(frozen=True)
class TargetOptions:
    """None, "" or () where nothing was said.

    target: a run, or a model's file. backbone, checkpoint, ema: a network of the catalogue with weights of one's own,
    or their moving averages. meta_graph and what follows: a TF1 graph. data: as of `finetune run`. preprocess: a name,
    or `module:function`. image_size in px. bn_decay: the share of the old moving value the training kept, if known.
    """

    target: Path | None = None
    backbone: str | None = None
    checkpoint: Path | None = None
    ema: bool = False
    meta_graph: Path | None = None
    input: str | None = None
    logits: str | None = None
    is_training: str | None = None
    input_layout: str | None = None
    feed: tuple[str, ...] = ()
    data: str | None = None
    data_dir: Path | None = None
    preprocess: str | None = None
    image_size: int | None = None
    batch_size: int | None = None
    source_checkpoint: Path | None = None
    bn_decay: float | None = None

    def training(self) -> str:
        """The options of `finetune run` that name the data, quoted for a shell, with a space before them."""
        named = ("data", "data_dir", "preprocess", "image_size")
        words = [word for name in named if (value := getattr(self, name)) is not None
                 for word in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip
        return f" {shlex.join(words)}" if words else ""

    def command(self) -> str:
        """The words that name the target and its data, quoted for a shell: a remedy repeats them."""
        words: list[str] = [str(self.target)] if self.target else []
        for name in ("backbone", "checkpoint", "meta_graph", "input", "logits", "is_training", "input_layout", "data",
                     "data_dir", "preprocess", "image_size", "batch_size"):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
        words += ["--ema"] if self.ema else []
        for value in self.feed:
            words += ["--feed", value]
        return shlex.join(words)


@dataclass(frozen=True, eq=False)
class Data:
    """The data of a model that is no run of ours, in the form it takes."""

    dataset: Dataset
    config: RunConfig

    def test(self) -> EvalSet:
        """Test images in the data's own order."""
        return EvalSet(self.dataset.test, **batches.form(self.config))

    def training(self, images: int) -> EvalSet:
        """At most so many training images, stratified and in random order."""
        return EvalSet(training_subset(self.dataset.train, self.config, images), **batches.form(self.config))


def read_data(
    request: TargetOptions, *, image_size: int, preprocess: str | None, batch_size: int | None = None
) -> Data:
    """The data a request names. `preprocess` is what is known of the weights; the request's own wins.

    `batch_size` is the only one the model takes, where it takes only one.
    """
    chosen = request.preprocess or preprocess
    if not chosen:
        raise WrongUse(
            "missing --preprocess: the file does not say how its pixels were prepared; give one of "
            f"{', '.join(PREPROCESSINGS)}, or MODULE:FUNCTION of your own ('raw' where the model does it itself)"
        )
    if batch_size and request.batch_size and request.batch_size % batch_size:
        raise WrongUse(
            f"--batch-size {request.batch_size} will not do: the graph takes exactly {batch_size} images; leave it out"
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
    for words, split in (("test", dataset.test), ("training", dataset.train)):
        if batch_size and len(split) < batch_size:
            raise FinetuneError(
                f"{dataset.source} has {len(split)} {words} images, but the graph takes {batch_size} at once: "
                "expected at least one batch"
            )
    return Data(dataset, config)


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
