"""`finetune export`."""

from pathlib import Path

import click

from finetune.cli import options
from finetune.cli.startup import load_tensorflow
from finetune.export import FORMATS


@click.command(epilog="Formats: " + "; ".join(f"{name}: {what}" for name, what in FORMATS.items()) + ".")
@options.TARGET
@click.option("--format", "form", type=click.Choice(list(FORMATS)), required=True, help="What to write.")
@click.option(
    "--out",
    type=options.PATH,
    required=True,
    metavar="PATH",
    help="Where to; for slim the prefix of the checkpoint, such as exported/model.ckpt. Nothing is overwritten.",
)
@options.JSON
def export(target: Path, form: str, out: Path, as_json: bool) -> None:
    """Write a finished run in a form that other programs take.

    RUN is a run directory, or a .keras file in one, such as what recalibrate-bn writes.
    """
    load_tensorflow()
    from finetune.export import export as write

    exported = write(target, out, form=form)
    if as_json:
        options.emit(exported.to_json())
    else:
        click.echo(exported.summary())
