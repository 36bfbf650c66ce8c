"""The options that choose a model of any kind and its data, and what opens it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.completion_command import complete_backbone
from finetune.cli.shared_options import (
    COUNT,
    CSV_COLUMNS,
    DATA_DIR,
    IMAGE_SIZE,
    LABEL_SEPARATOR,
    MULTI_LABEL,
    NPZ_KEYS,
    PATH,
    RECIPE,
    TFRECORD_KEYS,
)

if TYPE_CHECKING:
    from finetune.diagnosis.targets.opening import Target

_LAYOUTS = ("nhwc", "nchw", "flat-nhwc", "flat-nchw")
_TARGET = click.argument("target", type=PATH, metavar="[RUN|MODEL]", required=False)
_MODEL = (
    click.option(
        "--backbone",
        metavar="NAME",
        shell_complete=complete_backbone,
        help="A network of the catalogue, or a Keras model file; needs --checkpoint.",
    ),
    click.option(
        "--checkpoint",
        type=PATH,
        metavar="PATH",
        help="Your weights: for --backbone with the head you trained (slim checkpoint or training directory, Keras "
        "weights); for --meta-graph, if it is not the checkpoint beside it.",
    ),
    click.option("--ema", is_flag=True, help="Read weights from their moving averages in the checkpoint."),
    click.option("--meta-graph", type=PATH, metavar="FILE", help="A TF1 graph, such as model.ckpt-1000.meta."),
    click.option("--input", metavar="NAME", help="TF1 graph: the images, such as x:0.  [default: found]"),
    click.option("--logits", metavar="NAME", help="TF1 graph: the logits.  [default: found]"),
    click.option(
        "--input-layout",
        type=click.Choice(_LAYOUTS),
        help="TF1 graph, SavedModel: the layout of images in memory; flat: rows of 3072.  [default: by shape]",
    ),
    click.option("--feed", multiple=True, metavar="NAME=VALUE", help="TF1 graph: another placeholder. Repeatable."),
    click.option(
        "--architecture",
        type=PATH,
        metavar="FILE",
        help="MODEL holds weights alone (model.save_weights): the model that they are of, .keras, .h5 or JSON.",
    ),
    click.option(
        "--output", metavar="NAME", help="Model with several outputs (Keras, SavedModel): the one that is meant."
    ),
    click.option("--data", metavar="NAME|PATH", help="The data, as for 'finetune run'.  [default: cifar10]"),
    DATA_DIR,
    NPZ_KEYS,
    TFRECORD_KEYS,
    CSV_COLUMNS,
    MULTI_LABEL,
    LABEL_SEPARATOR,
    click.option(
        "--preprocess",
        metavar="NAME|MODULE:FUNCTION",
        help="How pixels were preprocessed in training.  [default: as the run or the backbone]",
    ),
    click.option(
        "--image-size", type=IMAGE_SIZE, metavar="PX|HxW", help="Side in px, or 24x32.  [default: the model's]"
    ),
    *RECIPE,
    click.option("--batch-size", type=COUNT, metavar="N", help="[default: 64, or the size that the graph requires]"),
)
_TRAINING = (
    click.option(
        "--bn-decay", type=float, metavar="F", help="The decay of the training, if the file does not hold it."
    ),
    click.option(
        "--source-checkpoint",
        type=PATH,
        metavar="PATH",
        help="The weights that the model was fine-tuned from, if the run does not name them.",
    ),
)


def model_options(
    *, argument: bool = True, training: bool = True, switch: str = "--is-training"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds the options to a command, which passes them all on to `open_model`.

    argument: with the path of the model. training: with what is known of its training. switch: the option that names a
    graph's training switch.
    """
    named = click.option(
        switch, "is_training", metavar="NAME", help="TF1 graph: the training switch.  [default: found]"
    )
    options = (*((_TARGET,) if argument else ()), *_MODEL, named, *(_TRAINING if training else ()))

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def open_model(display: Any, **given: Any) -> "Target":
    """The model that these options choose; `display` reports how it was opened."""
    from finetune.diagnosis.targets.opening import open_target
    from finetune.diagnosis.targets.options import TargetOptions

    target = open_target(TargetOptions(**given))
    for note in target.notes:
        display.say(note)
    return target
