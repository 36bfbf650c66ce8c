"""The command `finetune export`."""

from pathlib import Path

import click

from finetune.cli.shared_options import COUNT, DATA_DIR, PATH, TARGET, output_options, printed_json, progress
from finetune.cli.startup import load_tensorflow
from finetune.cli.terminal import print_table
from finetune.errors import WrongUse
from finetune.inference.export.exported import AGREEMENT, FORMATS, MOST_LOST, Calibration, Export, TrialOptions


@click.command(epilog="Formats: " + "; ".join(f"{name}: {one.words}" for name, one in FORMATS.items()) + ".")
@TARGET
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
    type=PATH,
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
@DATA_DIR
@click.option("--images", type=COUNT, metavar="N", help="Re-evaluate on N test images.  [default: all]")
@click.option(
    "--assert-accuracy",
    "least_accuracy",
    type=click.FloatRange(0, 1),
    metavar="F",
    help="Write nothing and exit with code 1 if an export's test accuracy is below this fraction.",
)
@click.option("--no-evaluation", is_flag=True, help="Do not re-evaluate, as when the test images are missing.")
@click.option(
    "--representative",
    type=COUNT,
    metavar="N",
    help="Training images from which tflite-int8 and onnx-int8 take the ranges of activations.  [default: 200]",
)
@output_options
def export(
    target: Path,
    forms: tuple[str, ...],
    out: Path,
    with_preprocessing: bool,
    data_dir: Path | None,
    images: int | None,
    least_accuracy: float | None,
    no_evaluation: bool,
    representative: int | None,
) -> None:
    """Write a finished run in the formats of other programs, and re-evaluate each in its own runtime.

    RUN is a run directory, or a .keras file in one, such as what recalibrate-bn writes.
    """
    if least_accuracy is not None and no_evaluation:
        raise WrongUse("--assert-accuracy needs the evaluation: leave --no-evaluation out")
    load_tensorflow()
    from finetune.inference.export.write import export as write_export

    with progress() as display:
        trial = None if no_evaluation else TrialOptions(data_dir, images, least_accuracy, display.batch)
        exported = write_export(
            target,
            out,
            forms=forms,
            with_preprocessing=with_preprocessing,
            evaluation=trial,
            calibration=Calibration(representative, data_dir),
        )
    if printed_json({"target": str(target), **exported.to_json()}):
        return
    for one in exported.exported:
        click.echo(one.summary())
    _print_trials(exported)


def _print_trials(exported: Export) -> None:
    """Print the table of the re-evaluation, and a warning if an export classifies differently from the run."""
    if exported.run is None:
        click.echo("not re-evaluated (--no-evaluation)", err=True)
        return
    own = [("run", exported.run)]
    if exported.decoded:
        own.append(("run, photos decoded in full", exported.decoded))
    if exported.folded:
        own.append(("BatchNorm folded, float32", exported.folded))
    trials = [(one.form, one.trial) for one in exported.exported if one.trial]
    header = ("", "accuracy", "difference", "same class", "logits differ by", "MB", "ms/image")
    cells = []
    for name, trial in own + trials:
        compared = (f"{trial.difference:+.2%}", f"{trial.agreement:.2%}", f"{trial.largest_logit_difference:.1e}")
        figures = (f"{trial.accuracy:.2%}", *(("", "", "") if name == "run" else compared))
        cells.append((name, *figures, f"{trial.bytes / 1e6:.2f}", f"{trial.milliseconds_per_image:.2f}"))
    click.echo()
    print_table(header, cells, numbers=header[1:])
    click.echo(f"{exported.run.images} test images, each export in its own runtime; times are for single images")
    if exported.decoded:
        click.echo(
            "exports are compared with the run on photos decoded in full; in the run's evaluation, libjpeg decodes "
            "large photos at a fraction of their size"
        )
    for name, trial in trials:
        if FORMATS[name].quantised:
            click.echo(f"{name}: {100 * trial.difference:+.2f} points against the run, 95 % interval {trial.interval}")
    for name, trial in trials:
        quantised = FORMATS[name].quantised
        if quantised and trial.interval.high < 0 and trial.difference <= -MOST_LOST:
            click.echo(
                f"warning: the {name} export loses {-100 * trial.difference:.2f} points, expected less than "
                f"{100 * MOST_LOST:g}: try more --representative images, or tflite-float16",
                err=True,
            )
        if not quantised and trial.agreement < AGREEMENT:
            click.echo(
                f"warning: the {name} export predicts the run's class on {trial.agreement:.2%} of the images, expected "
                f"{AGREEMENT:.1%} or more",
                err=True,
            )
