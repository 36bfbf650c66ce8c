"""The command `finetune report`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.shared_options import DATA_DIR, PATH, output_options, printed_json, progress
from finetune.cli.startup import load_tensorflow

if TYPE_CHECKING:
    import numpy as np

    from finetune.data.dataset import Split
    from finetune.evaluation.predictions import AnyPredictions


@click.command()
@click.argument("targets", type=PATH, metavar="RUN...", nargs=-1)
@click.option("--html", type=PATH, metavar="FILE", help="Also write a self-contained page with plots.")
@click.option(
    "--mistakes",
    type=click.IntRange(0, 500),
    default=24,
    metavar="N",
    help="Most confident mistakes shown.  [default: 24]",
)
@click.option(
    "--augmented",
    type=click.IntRange(0, 500),
    default=0,
    metavar="N",
    help="With --html: show N training images as each run augmented them.  [default: 0]",
)
@click.option(
    "--no-heat-maps",
    is_flag=True,
    help="With --html: leave out where the network looked in its mistakes. Only that needs TensorFlow.",
)
@DATA_DIR
@output_options
def report(
    targets: tuple[Path, ...],
    html: Path | None,
    mistakes: int,
    augmented: int,
    no_heat_maps: bool,
    data_dir: Path | None,
) -> None:
    """Report on runs: curves, confusion, scores by class, most confident mistakes, calibration, BatchNorm, settings.

    RUN is a run directory, or the directory of a batch, which means all of its finished runs. Several runs are ranked,
    and a difference within the noise of the test set is marked as such.

    \b
    finetune report runs/my-run --html my-run.html
    finetune report runs/a runs/b runs/c
    """
    from finetune.errors import WrongUse
    from finetune.files import write_text
    from finetune.reporting.rendering import check_page_path
    from finetune.reporting.run_report import build_report

    if not targets:
        raise WrongUse("missing RUN: give one or more run directories, or that of a batch")
    if html is not None:
        check_page_path(html)
    elif no_heat_maps:
        raise WrongUse("--no-heat-maps leaves pictures out of a page: give --html FILE with it, or leave it out")
    elif augmented:
        raise WrongUse("--augmented shows images in a page: give --html FILE with it")
    with progress() as display:
        found = build_report(
            targets,
            score=partial(_score, display, data_dir),
            data_dir=data_dir,
            mistakes=mistakes,
            pictures=html is not None,
            explain=None if no_heat_maps else partial(_explain, display),
        )
    if html is not None:
        from finetune.reporting.pages import render_run_page

        sheets = _augmented(found.value["runs"], augmented, data_dir) if augmented else {}
        write_text(html, render_run_page(found.value, found.pictures, sheets, found.heat_maps))
    if printed_json(found.value):
        return
    from finetune.cli.display_report import show_report

    show_report(found.value)
    if html is not None:
        click.echo(f"page           {html}")


def _score(display: Any, data_dir: Path | None, run: Path) -> "AnyPredictions":
    """The predictions for the test images of a run."""
    display.say(f"{run} has no predictions.npz: scoring its test images")
    load_tensorflow()
    from finetune.runs.model import examine_run

    return examine_run(run, data_dir=data_dir, on_batch=display.batch)[0].images


def _explain(display: Any, run: Path, split: "Split") -> "tuple[str, np.ndarray]":
    """The heat maps of a run's mistakes."""
    display.say(f"{run}: making heat maps of {len(split)} mistakes")
    load_tensorflow()
    from finetune.inference.grad_cam import heat_maps_of_run

    return heat_maps_of_run(run, split)


def _augmented(runs: list[dict[str, Any]], images: int, data_dir: Path | None) -> dict[str, list[tuple[str, str]]]:
    """(data URI, label) of the first training images of each run, by its name."""
    load_tensorflow()
    from finetune.reporting.pictures import data_uri
    from finetune.runs.preview import of_run

    sheets = {}
    for one in runs:
        seen = of_run(Path(one["path"]), images=images, data_dir=data_dir)
        sheets[one["name"]] = [
            (data_uri(pixels, photo=False), label) for pixels, label in zip(seen.images, seen.labels, strict=True)
        ]
    return sheets
