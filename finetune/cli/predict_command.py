"""The command `finetune predict`."""

from pathlib import Path
from typing import Any

import click

from finetune.cli import shared_options
from finetune.cli.startup import load_tensorflow
from finetune.cli.terminal import print_table


@click.command()
@shared_options.TARGET
@click.argument("images", type=shared_options.PATH, nargs=-1, required=True, metavar="IMAGE|DIR...")
@click.option("--top", type=shared_options.COUNT, default=5, show_default=True, metavar="K", help="Classes per image.")
@click.option("--csv", "csv_file", type=shared_options.PATH, metavar="FILE", help="Also write the table to this file.")
@shared_options.SKIP_BAD_IMAGES
@click.option("--batch-size", type=shared_options.COUNT, metavar="N", help="[default: the run's]")
@shared_options.JSON
@shared_options.QUIET
def predict(target: Path, images: tuple[Path, ...], as_json: bool, quiet: bool, **options: Any) -> None:
    """Print the most probable classes of images, as a run's model predicts them.

    RUN is a run directory, a .keras file in one, or a file that 'finetune export --format keras' wrote. Images are
    preprocessed as in the run's evaluation. Folders are read in sorted order, with their subfolders.
    """
    from finetune.cli.display_training import ConsoleDisplay

    load_tensorflow()
    from finetune.inference.predict import predict as classify

    with ConsoleDisplay(quiet=quiet or as_json).running() as display:
        found = classify(target, images, **options, on_scan=display.on_scan, on_batch=display.batch)
    if as_json:
        shared_options.emit(found.to_json())
        return
    rows = [(image, str(rank), name, f"{chance:.2%}") for image, rank, _, name, chance in found.rows()]
    print_table(("image", "rank", "class", "probability"), rows, numbers=("rank", "probability"))
    for remark in found.remarks:
        click.echo(remark, err=True)
    if found.skipped:
        click.echo(f"left out as damaged: {len(found.skipped)} of {len(found.skipped) + len(found.images)}", err=True)
        for reason in found.skipped:
            click.echo(f"  {reason}", err=True)
