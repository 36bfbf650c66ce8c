"""`finetune report`."""

from collections.abc import Callable
from pathlib import Path

import click

from finetune.cli import shared_options
from finetune.cli.startup import load_tensorflow


@click.command()
@click.argument("targets", type=shared_options.PATH, metavar="RUN...", nargs=-1)
@click.option("--html", type=shared_options.PATH, metavar="FILE", help="The same as a self-contained page with plots.")
@click.option(
    "--mistakes", type=click.IntRange(0, 500), default=24, metavar="N", help="Surest mistakes shown.  [default: 24]"
)
@shared_options.DATA_DIR
@shared_options.JSON
@shared_options.QUIET
def report(
    targets: tuple[Path, ...], html: Path | None, mistakes: int, data_dir: Path | None, as_json: bool, quiet: bool
) -> None:
    """What runs came to: curves, confusion, scores by class, the surest mistakes, calibration, BatchNorm, settings.

    RUN is a run directory, or the directory of a batch, which stands for its finished runs. Several runs are ranked,
    and a difference within the noise of the test set is said to be so.

    \b
    finetune report runs/my-run --html my-run.html
    finetune report runs/a runs/b runs/c
    """
    from finetune.cli.display_training import console_display
    from finetune.errors import WrongUse
    from finetune.reporting import html as page
    from finetune.reporting.run_report import build

    if not targets:
        raise WrongUse("missing RUN: give one or more run directories, or that of a batch")
    if html is not None:
        page.check_place(html)
    with console_display(quiet=quiet or as_json) as display:

        def score(why: str) -> Callable[[], None]:
            display.say(why)
            load_tensorflow()
            on_batch: Callable[[], None] = display.batch
            return on_batch

        found = build(targets, data_dir=data_dir, mistakes=mistakes, pictures=html is not None, score=score)
    if html is not None:
        from finetune.reporting import run_page as pages

        page.write(html, pages.page(found.value, found.pictures))
    if as_json:
        shared_options.emit(found.value)
        return
    from finetune.cli.display_report import show_report

    show_report(found.value)
    if html is not None:
        click.echo(f"page           {html}")
