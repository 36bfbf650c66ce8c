"""The command `finetune demo`: it runs the commands that a user would type, one after another."""

import shlex
import time
from pathlib import Path

import click

from finetune.cli.shared_options import PATH
from finetune.cli.startup import load_tensorflow

# The learning rate is high on purpose: the weights move so far that the statistics of the source become useless, which
# takes longer in a real fine-tuning.
_RUN = "run --backbone resnet_v1_demo --data demo-target --epochs 5 --learning-rate 0.02"

_STORY = (
    (
        "Transfer the bundled backbone, pretrained on other generated images, to ten new classes.",
        f"{_RUN} --run-dir {{folder}}/transfer",
    ),
    ("The same budget from random weights.", f"{_RUN} --from-scratch --run-dir {{folder}}/scratch"),
    (
        "The same transfer with the update operations forgotten: the moving statistics never change.",
        f"{_RUN} --bn-updates off --run-dir {{folder}}/forgotten",
    ),
    ("What is wrong with it?", "diagnose-bn {folder}/forgotten"),
    ("Apply the remedy.", "recalibrate-bn {folder}/forgotten"),
)


@click.command()
@click.option("--runs-dir", type=PATH, default="demo-runs", help="Folder of its runs.  [default: demo-runs]")
@click.pass_context
def demo(ctx: click.Context, runs_dir: Path) -> None:
    """Transfer, diagnose and repair with bundled weights and generated images, offline, in about two minutes."""
    load_tensorflow()
    from finetune.files import read_json
    from finetune.runs.directory import RunDir, check_place

    started = time.monotonic()
    check_place(None, runs_dir)
    folder = RunDir.create_numbered(runs_dir, "demo").path
    main = ctx.find_root().command
    for what, line in _STORY:
        click.secho(f"\n# {what}", bold=True)
        arguments = [part.format(folder=folder) for part in shlex.split(line)]
        click.secho(f"$ finetune {shlex.join(arguments)}", fg="cyan")
        try:
            main.main(arguments, prog_name="finetune", standalone_mode=False)
        except SystemExit as stopped:
            # Exit code 3 is expected: the diagnosis finds BatchNorm unhealthy.
            if stopped.code != 3:
                raise
    diagnosis = read_json(folder / "forgotten" / "bn.json")
    click.secho("\n# Together: accuracy on 1,000 test images", bold=True)
    click.echo(f"{'':46} is_training=False  is_training=True")
    for name, words in (
        ("transfer", "transfer"),
        ("scratch", "from scratch, same budget"),
        ("forgotten", "transfer, update operations forgotten"),
    ):
        test = read_json(folder / name / "result.json")["test"]
        false, true = (test[key]["accuracy"] for key in ("is_training_false", "is_training_true"))
        click.echo(f"{words:46} {false:>17.1%}  {true:>16.1%}")
    repaired = diagnosis["accuracy"]["test"]["recalibrated"]
    click.echo(f"{'  ... and recalibrated':46} {repaired:>17.1%}")
    click.echo(f"diagnosis: {diagnosis['verdict']['cause']}")
    click.echo(f"{time.monotonic() - started:.0f} seconds; the runs are in {folder}")
