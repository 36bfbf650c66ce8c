"""`finetune recalibrate-bn`."""

from pathlib import Path

import click

from finetune.cli import options
from finetune.cli.startup import load_tensorflow


@click.command("recalibrate-bn")
@options.TARGET
@options.DATA_DIR
@click.option("--images", type=options.COUNT, default=10_000, help="Training images to pool.  [default: 10000]")
@click.option("--out", type=options.PATH, metavar="FILE", help="[default: model-recalibrated.keras beside the model]")
@options.JSON
@options.QUIET
def recalibrate_bn(
    target: Path, data_dir: Path | None, images: int, out: Path | None, as_json: bool, quiet: bool
) -> None:
    """Write a copy of a run's model with moving statistics measured on training images.

    No weight changes. Nothing is overwritten, and nothing is written where it would make the model worse.
    """
    from finetune.cli.display import console_display

    load_tensorflow()
    from finetune.diagnosis.doctor import recalibrate_bn as recalibrate
    from finetune.diagnosis.targets.run import open_target

    with console_display(quiet=quiet or as_json) as display:
        result = recalibrate(open_target(target, data_dir=data_dir), out=out, images=images, on_batch=display.batch)
    if as_json:
        options.emit(result.to_json())
    else:
        click.echo(
            f"test accuracy with is_training=False: {result.before.accuracy:.1%} before, {result.after.accuracy:.1%} "
            f"after recalibrating on {result.images} training images"
        )
        click.echo(f"wrote {result.path}")
