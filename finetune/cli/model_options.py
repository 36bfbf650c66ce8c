"""Which model, on which data: the options `diagnose-bn` and `recalibrate-bn` share."""

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
        shell_complete=completion_command.backbones,
        help="A network of the catalogue; needs --checkpoint.",
    ),
    click.option(
        "--checkpoint",
        type=shared_options.PATH,
        metavar="PATH",
        help="Your weights: for --backbone with the head you trained (slim checkpoint or training directory, Keras "
        "weights); for --meta-graph, where it is not the one beside it.",
    ),
    click.option("--ema", is_flag=True, help="Read weights from their moving averages in the checkpoint."),
    click.option("--meta-graph", type=shared_options.PATH, metavar="FILE", help="Any TF1 graph: model.ckpt-1000.meta."),
    click.option("--input", metavar="NAME", help="TF1 graph: the images, such as x:0.  [default: found]"),
    click.option("--logits", metavar="NAME", help="TF1 graph: the logits.  [default: found]"),
    click.option("--is-training", metavar="NAME", help="TF1 graph: the training switch.  [default: found]"),
    click.option(
        "--input-layout",
        type=click.Choice(_LAYOUTS),
        help="TF1 graph: how images lie in memory; flat: rows of 3072.  [default: by shape]",
    ),
    click.option("--feed", multiple=True, metavar="NAME=VALUE", help="TF1 graph: another placeholder. Repeatable."),
    click.option("--data", metavar="NAME|PATH", help="The data, as of 'finetune run'.  [default: cifar10]"),
    shared_options.DATA_DIR,
    click.option(
        "--preprocess",
        metavar="NAME|MODULE:FUNCTION",
        help="How pixels were prepared in training.  [default: the run's, the backbone's]",
    ),
    click.option("--image-size", type=shared_options.COUNT, metavar="PX", help="Side in px.  [default: the model's]"),
    click.option("--batch-size", type=shared_options.COUNT, metavar="N", help="[default: 64, or what the graph takes]"),
    click.option(
        "--bn-decay", type=float, metavar="F", help="The decay it was trained with, where the file does not say."
    ),
    click.option(
        "--source-checkpoint",
        type=shared_options.PATH,
        metavar="PATH",
        help="What the model was fine-tuned from, where the run does not know.",
    ),
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them all as keywords, for `open_model`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def open_model(display: Any, **given: Any) -> "Target":
    """The target these options name; how it was opened is said on `display`."""
    from finetune.diagnosis.targets.opening import open_target
    from finetune.diagnosis.targets.options import TargetOptions

    target = open_target(TargetOptions(**given))
    for note in target.notes:
        display.say(note)
    return target
