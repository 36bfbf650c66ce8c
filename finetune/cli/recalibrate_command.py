"""The command `finetune recalibrate-bn`."""

from pathlib import Path
from typing import Any

import click

from finetune.cli import shared_options
from finetune.cli.model_options import model_options, open_model
from finetune.cli.startup import load_tensorflow


@click.command("recalibrate-bn")
@model_options
@click.option(
    "--images",
    type=shared_options.COUNT,
    default=10_000,
    help="Training images to measure the statistics on.  [default: 10000]",
)
@click.option("--out", type=shared_options.PATH, metavar="PATH", help="[default: NAME-recalibrated beside the model]")
@shared_options.JSON
@shared_options.QUIET
def recalibrate_bn(images: int, out: Path | None, as_json: bool, quiet: bool, **opening: Any) -> None:
    """Write a copy of a model with moving statistics measured on training images.

    RUN, MODEL and the other ways to give a model are those of diagnose-bn. The copy has the format of the original: a
    slim checkpoint stays a slim checkpoint, a .keras file stays a .keras file.

    No weight changes. Nothing is overwritten, and nothing is written if it would make the model worse.
    """
    from finetune.cli.display_training import ConsoleDisplay

    load_tensorflow()
    from finetune.diagnosis.doctor import recalibrate_bn as recalibrate

    with ConsoleDisplay(quiet=quiet or as_json).running() as display:
        result = recalibrate(open_model(display, **opening), out=out, images=images, on_batch=display.batch)
    if as_json:
        shared_options.emit(result.to_json())
    else:
        click.echo(
            f"test accuracy with is_training=False: {result.before.accuracy:.1%} before, {result.after.accuracy:.1%} "
            f"after recalibrating on {result.images} training images"
        )
        click.echo(f"wrote {result.path}")
