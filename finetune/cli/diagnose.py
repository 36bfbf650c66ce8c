"""`finetune diagnose-bn`."""

import sys
from pathlib import Path
from typing import Any

import click

from finetune.cli import options
from finetune.cli.startup import load_tensorflow


@click.command("diagnose-bn")
@options.TARGET
@options.DATA_DIR
@click.option("--images", type=options.COUNT, default=2_000, help="Training images to look at.  [default: 2000]")
@click.option("--preprocess", metavar="NAME", help="Feed pixels this way instead of as the run did.")
@click.option(
    "--source-checkpoint",
    type=options.PATH,
    metavar="PATH",
    help="What the model was fine-tuned from, where the run does not know: slim checkpoint or Keras .h5.",
)
@click.option("--all-checks", is_flag=True, help="Every further check, not only those the figures call for.")
@click.option("--quick", is_flag=True, help="No further checks: the three ways and the drift only.")
@options.JSON
@options.QUIET
def diagnose_bn(
    target: Path, images: int, all_checks: bool, quick: bool, as_json: bool, quiet: bool, **opening: Any
) -> None:
    """Is BatchNorm to blame? Test accuracy with is_training True against False, the cause, the remedy.

    RUN is a run directory, or a .keras file in one. Exit code 3 when BatchNorm is unhealthy.
    """
    from finetune.cli.display import console_display
    from finetune.cli.display_diagnosis import show_diagnosis
    from finetune.errors import WrongUse

    if quick and all_checks:
        raise WrongUse("--quick and --all-checks contradict each other: give one of them")
    load_tensorflow()
    from finetune.diagnosis.doctor import diagnose
    from finetune.diagnosis.targets.run import open_target

    with console_display(quiet=quiet or as_json) as display:
        diagnosis = diagnose(
            open_target(target, **opening),
            images=images,
            extent="quick" if quick else "all" if all_checks else "default",
            on_batch=display.batch,
        )
    if as_json:
        options.emit(diagnosis.to_json())
    else:
        show_diagnosis(diagnosis)
    if not diagnosis.verdict.healthy:
        sys.exit(3)
