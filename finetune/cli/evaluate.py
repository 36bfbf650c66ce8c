"""`finetune evaluate`."""

from pathlib import Path

import click

from finetune.cli import options
from finetune.cli.startup import load_tensorflow


@click.command()
@options.TARGET
@options.DATA_DIR
@click.option(
    "--split",
    type=click.Choice(["test", "validation", "train"]),
    default="test",
    help="Images to score.  [default: test]",
)
@click.option(
    "--is-training",
    type=click.Choice(["false", "true"]),
    default="false",
    help="false: moving statistics; true: batch statistics. Dropout is off in both.  [default: false]",
)
@options.JSON
@options.QUIET
def evaluate(target: Path, data_dir: Path | None, split: str, is_training: str, as_json: bool, quiet: bool) -> None:
    """Accuracy and loss of a run's model, every image counted once.

    RUN is a run directory, or a .keras file in one.
    """
    from finetune.cli.display import console_display

    load_tensorflow()
    from finetune.scoring import evaluate_run

    with console_display(quiet=quiet or as_json) as display:
        evaluation = evaluate_run(
            target,
            data_dir=data_dir,
            split=split,
            statistics="batch" if is_training == "true" else "moving",
            on_batch=display.batch,
        )
    if as_json:
        options.emit(
            {"target": str(target), "split": split, "is_training": is_training == "true", **evaluation.to_json()}
        )
    else:
        click.echo(
            f"{split}: accuracy {evaluation.accuracy:.2%} (± {evaluation.standard_error:.2%}), loss "
            f"{evaluation.loss:.4f}, {evaluation.examples} images, is_training={is_training.capitalize()}"
        )
