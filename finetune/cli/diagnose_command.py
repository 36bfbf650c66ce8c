"""The command `finetune diagnose-bn`."""

import sys
from pathlib import Path
from typing import Any

import click

from finetune.cli import shared_options
from finetune.cli.model_options import model_options, open_model
from finetune.cli.startup import load_tensorflow


@click.command("diagnose-bn")
@model_options
@click.option("--images", type=shared_options.COUNT, default=2_000, help="Training images to measure.  [default: 2000]")
@click.option(
    "--all-checks", is_flag=True, help="Run every further check, not only those that the measurements suggest."
)
@click.option("--quick", is_flag=True, help="No further checks: the three accuracies and the drift only.")
@click.option("--html", type=shared_options.PATH, metavar="FILE", help="Also write a page with plots.")
@shared_options.JSON
@shared_options.QUIET
def diagnose_bn(
    images: int, all_checks: bool, quick: bool, html: Path | None, as_json: bool, quiet: bool, **opening: Any
) -> None:
    """Is BatchNorm to blame? Compare test accuracy with is_training False and True; name cause and remedy.

    RUN is a run directory or a .keras file in one. MODEL is a Keras model (.keras, .h5, SavedModel). For a slim
    checkpoint give --backbone and --checkpoint, for any TF1 graph --meta-graph. Exit code 3 means BatchNorm is
    unhealthy.

    \b
    finetune diagnose-bn runs/my-run
    finetune diagnose-bn model.keras --preprocess inception --data photos/
    finetune diagnose-bn --backbone resnet_v1_50 --checkpoint train_dir --image-size 64
    finetune diagnose-bn --meta-graph model.ckpt-1000.meta --preprocess unit
    """
    from finetune.cli.display_diagnosis import show_diagnosis
    from finetune.cli.display_training import ConsoleDisplay
    from finetune.errors import WrongUse
    from finetune.files import write_text
    from finetune.reporting.html import check_page_path

    if quick and all_checks:
        raise WrongUse("--quick and --all-checks contradict each other: give one of them")
    if html is not None:
        check_page_path(html)
    load_tensorflow()
    from finetune.diagnosis.doctor import diagnose
    from finetune.reporting.diagnosis_page import render_diagnosis_page

    with ConsoleDisplay(quiet=quiet or as_json).running() as display:
        diagnosis = diagnose(
            open_model(display, **opening),
            images=images,
            extent="quick" if quick else "all" if all_checks else "default",
            on_batch=display.batch,
        )
    if html is not None:
        write_text(html, render_diagnosis_page(diagnosis.to_json()))
    if as_json:
        shared_options.emit(diagnosis.to_json())
    else:
        show_diagnosis(diagnosis)
    if not diagnosis.verdict.healthy:
        sys.exit(3)
