"""`finetune diagnose-bn`."""

import sys
from pathlib import Path

import click

from finetune.cli import options
from finetune.cli.startup import load_tensorflow


@click.command("diagnose-bn")
@options.TARGET
@options.DATA_DIR
@click.option("--images", type=options.COUNT, default=2_000, help="Training images to look at.  [default: 2000]")
@options.JSON
@options.QUIET
def diagnose_bn(target: Path, data_dir: Path | None, images: int, as_json: bool, quiet: bool) -> None:
    """Is BatchNorm to blame? Test accuracy with is_training True against False, the cause, the remedy.

    RUN is a run directory, or a .keras file in one. Exit code 3 when BatchNorm is unhealthy.
    """
    from finetune.cli.display import console_display, show_diagnosis

    load_tensorflow()
    from finetune.diagnosis.of_run import diagnose

    with console_display(quiet=quiet or as_json) as display:
        diagnosis = diagnose(target, data_dir=data_dir, images=images, on_batch=display.batch)
    if as_json:
        options.emit(diagnosis.to_json())
    else:
        show_diagnosis(diagnosis)
    if not diagnosis.verdict.healthy:
        sys.exit(3)
