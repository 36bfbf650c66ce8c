"""The command `finetune evaluate`."""

from pathlib import Path

import click

from finetune.cli import shared_options
from finetune.cli.startup import load_tensorflow


@click.command()
@shared_options.TARGET
@shared_options.DATA_DIR
@shared_options.SPLIT
@click.option(
    "--is-training",
    type=click.Choice(["false", "true"]),
    default="false",
    help="false: moving statistics; true: batch statistics. Dropout is off in both.  [default: false]",
)
@click.option(
    "--tta",
    type=click.Choice(["flip"]),
    help="flip: also score the averaged probabilities of every image and its mirror image.",
)
@shared_options.JSON
@shared_options.QUIET
def evaluate(
    target: Path, data_dir: Path | None, split: str, is_training: str, tta: str | None, as_json: bool, quiet: bool
) -> None:
    """Measure accuracy and loss of a run's model; every image counts once.

    RUN is a run directory, or a .keras file in one.
    """
    from finetune.cli.display_training import ConsoleDisplay

    load_tensorflow()
    from finetune.runs.evaluate import concern, examine_run

    with ConsoleDisplay(quiet=quiet or as_json).running() as display:
        passes = examine_run(
            target,
            data_dir=data_dir,
            split=split,
            statistics="batch" if is_training == "true" else "moving",
            flip=tta == "flip",
            on_batch=display.batch,
        )
    if (broken := concern(target)) is not None:
        click.echo(f"warning: {broken}", err=True)
    evaluation, *flipped = (one.evaluation for one in passes)
    if as_json:
        averaged = {"tta": {"kind": tta, **flipped[0].to_json()}} if flipped else {}
        about = {"target": str(target), "split": split, "is_training": is_training == "true"}
        shared_options.emit({**about, **evaluation.to_json(), **averaged})
        return
    for one, words in ((evaluation, ""), *((one, ", averaged with the mirror images") for one in flipped)):
        click.echo(
            f"{split}: accuracy {one.accuracy:.2%} (± {one.standard_error:.2%}), loss {one.loss:.4f}, "
            f"{one.examples} images, is_training={is_training.capitalize()}{words}"
        )
