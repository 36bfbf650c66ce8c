"""The command `finetune export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetune.cli import shared_options
from finetune.cli.startup import load_tensorflow
from finetune.cli.terminal import print_table
from finetune.errors import WrongUse
from finetune.inference.export.format_table import FORMATS

if TYPE_CHECKING:  # it imports NumPy, which `--help` does without
    from finetune.inference.export.exported import Export


@click.command(epilog="Formats: " + "; ".join(f"{name}: {one.words}" for name, one in FORMATS.items()) + ".")
@shared_options.TARGET
@click.option(
    "--format",
    "forms",
    type=click.Choice(list(FORMATS)),
    required=True,
    multiple=True,
    help="What to write. Repeatable: several formats go into one directory.",
)
@click.option(
    "--out",
    type=shared_options.PATH,
    required=True,
    metavar="PATH",
    help="The file to write; for savedmodel the directory, for slim the prefix, such as exported/model.ckpt; for "
    "several formats one directory for all. Nothing is overwritten.",
)
@click.option(
    "--with-preprocessing",
    is_flag=True,
    help="Include resizing and preprocessing: the export then takes uint8 RGB pixels.",
)
@shared_options.DATA_DIR
@click.option("--images", type=shared_options.COUNT, metavar="N", help="Re-evaluate on N test images.  [default: all]")
@click.option(
    "--assert-accuracy",
    "least_accuracy",
    type=click.FloatRange(0, 1),
    metavar="F",
    help="Write nothing and exit with code 1 if an export's test accuracy is below this fraction.",
)
@click.option("--no-evaluation", is_flag=True, help="Do not re-evaluate, as when the test images are missing.")
@shared_options.JSON
@shared_options.QUIET
def export(
    target: Path,
    forms: tuple[str, ...],
    out: Path,
    with_preprocessing: bool,
    data_dir: Path | None,
    images: int | None,
    least_accuracy: float | None,
    no_evaluation: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a finished run in the formats of other programs, and re-evaluate each in its own runtime.

    RUN is a run directory, or a .keras file in one, such as what recalibrate-bn writes.
    """
    from finetune.cli.display_training import ConsoleDisplay

    if least_accuracy is not None and no_evaluation:
        raise WrongUse("--assert-accuracy needs the evaluation: leave --no-evaluation out")
    load_tensorflow()
    from finetune.inference.export.exported import TrialOptions
    from finetune.inference.export.write import export as write_export

    with ConsoleDisplay(quiet=quiet or as_json).running() as display:
        options = TrialOptions(data_dir, images, least_accuracy, display.batch)
        exported = write_export(
            target,
            out,
            forms=forms,
            with_preprocessing=with_preprocessing,
            evaluation=None if no_evaluation else options,
        )
    if as_json:
        shared_options.emit({"target": str(target), **exported.to_json()})
        return
    for one in exported.exported:
        click.echo(one.summary())
    _print_trials(target, exported)


def _print_trials(target: Path, exported: "Export") -> None:
    """Print the table of the re-evaluation, and a warning if an export classifies differently from the run."""
    from finetune.inference.export.exported import AGREEMENT

    if exported.run is None:
        click.echo("not re-evaluated (--no-evaluation)", err=True)
        return
    rows = [("run", exported.run)]
    if exported.decoded:
        rows.append(("run, photos decoded in full", exported.decoded))
    own = len(rows)
    rows += [(one.form, one.trial) for one in exported.exported if one.trial]
    header = ("", "accuracy", "difference", "same class", "logits differ by", "MB", "ms/image")
    cells = []
    for name, trial in rows:
        compared = [f"{trial.difference:+.2%}", f"{trial.agreement:.2%}", f"{trial.logit_difference:.1e}"]
        if name == "run":
            compared = ["", "", ""]
        size, time = f"{trial.bytes / 1e6:.2f}", f"{trial.milliseconds:.2f}"
        cells.append((name, f"{trial.accuracy:.2%}", *compared, size, time))
    click.echo()
    print_table(header, cells, numbers=header[1:])
    click.echo(f"{exported.run.images} test images, each export in its own runtime; times are for single images")
    if exported.decoded:
        click.echo(
            "exports are compared with the run on photos decoded in full; in the run's evaluation, libjpeg decodes "
            "large photos at a fraction of their size"
        )
    for name, trial in rows[own:]:
        if trial.agreement < AGREEMENT:
            click.echo(
                f"warning: the {name} export predicts the run's class on {trial.agreement:.2%} of the images, expected "
                f"{AGREEMENT:.1%} or more",
                err=True,
            )
