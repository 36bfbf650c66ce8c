"""`finetune demo`."""

from pathlib import Path

import click

from finetune.cli import options
from finetune.cli.startup import load_tensorflow


@click.command()
@click.option("--runs-dir", type=options.PATH, default="demo-runs", help="Where its runs go.  [default: demo-runs]")
def demo(runs_dir: Path) -> None:
    """The main job on bundled weights and generated images, offline, in about two minutes."""
    load_tensorflow()
    from finetune.demo.story import tell

    tell(runs_dir)
