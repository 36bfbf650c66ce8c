"""The options of `diagnose-bn` and `recalibrate-bn` that choose a model and its data."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from finetune.cli import completion_command, shared_options

if TYPE_CHECKING:
    from finetune.diagnosis.targets.opening import Target

_LAYOUTS = ("nhwc", "nchw", "flat-nhwc", "flat-nchw")
_OPTIONS = (
    click.argument("target", type=shared_options.PATH, metavar="[RUN|MODEL]", required=False),
    click.option(
        "--backbone",
        metavar="NAME",
        shell_complete=completion_command.complete_backbone,
        help="A network of the catalogue; needs --checkpoint.",
    ),
    click.option(
        "--checkpoint",
        type=shared_options.PATH,
        metavar="PATH",
        help="Your weights: for --backbone with the head you trained (slim checkpoint or training directory, Keras "
        "weights); for --meta-graph, if it is not the checkpoint beside it.",
    ),
    click.option("--ema", is_flag=True, help="Read weights from their moving averages in the checkpoint."),
    click.option(
        "--meta-graph", type=shared_options.PATH, metavar="FILE", help="A TF1 graph, such as model.ckpt-1000.meta."
    ),
    click.option("--input", metavar="NAME", help="TF1 graph: the images, such as x:0.  [default: found]"),
    click.option("--logits", metavar="NAME", help="TF1 graph: the logits.  [default: found]"),
    click.option("--is-training", metavar="NAME", help="TF1 graph: the training switch.  [default: found]"),
    click.option(
        "--input-layout",
        type=click.Choice(_LAYOUTS),
        help="TF1 graph: the layout of images in memory; flat: rows of 3072.  [default: by shape]",
    ),
    click.option("--feed", multiple=True, metavar="NAME=VALUE", help="TF1 graph: another placeholder. Repeatable."),
    click.option("--data", metavar="NAME|PATH", help="The data, as for 'finetune run'.  [default: cifar10]"),
    shared_options.DATA_DIR,
    click.option(
        "--preprocess",
        metavar="NAME|MODULE:FUNCTION",
        help="How pixels were preprocessed in training.  [default: as the run or the backbone]",
    ),
    click.option("--image-size", type=shared_options.COUNT, metavar="PX", help="Side in px.  [default: the model's]"),
    click.option(
        "--batch-size",
        type=shared_options.COUNT,
        metavar="N",
        help="[default: 64, or the size that the graph requires]",
    ),
    click.option(
        "--bn-decay", type=float, metavar="F", help="The decay of the training, if the file does not hold it."
    ),
    click.option(
        "--source-checkpoint",
        type=shared_options.PATH,
        metavar="PATH",
        help="The weights that the model was fine-tuned from, if the run does not name them.",
    ),
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which passes them all on to `open_model`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def open_model(display: Any, **given: Any) -> "Target":
    """The model that these options choose; `display` reports how it was opened."""
    from finetune.diagnosis.targets.opening import open_target
    from finetune.diagnosis.targets.options import TargetOptions

    target = open_target(TargetOptions(**given))
    for note in target.notes:
        display.say(note)
    return target
