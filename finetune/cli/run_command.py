"""The command `finetune run`."""

import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from finetune.cli import shared_options
from finetune.cli.run_options import SECTIONS
from finetune.cli.startup import load_tensorflow
from finetune.config import RunConfig, from_mapping


@click.command(cls=shared_options.Sectioned, sections=SECTIONS)
@shared_options.JSON
@shared_options.QUIET
@click.pass_context
def run(
    ctx: click.Context,
    /,
    resume: Path | None,
    config: Path | None,
    run_dir: Path | None,
    runs_dir: Path,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Transfer a pretrained backbone to new data: replace the head, train, evaluate and write the run directory.

    \b
    finetune run --backbone resnet_v1_101 --bn-decay 0.95
    finetune run --backbone keras/densenet121 --freeze-until conv4 --bn 'conv5=train' --bn freeze
    """
    from finetune.errors import WrongUse
    from finetune.runs.config_file import read_config_file
    from finetune.runs.directory import RunDir

    chosen = {key: _plain(value) for key, value in given.items() if value is not None and value != ()}
    if resume is not None:
        typed = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        others = [name for name in typed if name not in ("resume", "as_json", "quiet", "distribute")]
        if others:
            raise WrongUse(
                "--resume takes everything from the run's config.json: give no other setting with it "
                f"(found --{others[0].replace('_', '-')})"
            )
    else:
        base = read_config_file(config) if config else {}
        if not base and "backbone" not in chosen:
            raise WrongUse("missing --backbone NAME: 'finetune backbones list' lists them, resnet_v1_50 is one")
        settings = from_mapping(base, where=str(config or "the options"), options=chosen)

    load_tensorflow()
    from finetune.cli.display_training import ConsoleDisplay, show_result
    from finetune.training import start

    if dry_run:
        _show_plan(settings, quiet=quiet, as_json=as_json)
        return
    with ConsoleDisplay(quiet=quiet).running() as display:
        if resume is not None:
            finished = start.resume(resume, distribute=chosen.get("distribute"), display=display)
        else:
            finished = start.start(settings, run_dir=run_dir, runs_dir=runs_dir, display=display)
    if not isinstance(finished, RunDir):  # a worker of a distributed run: the chief writes
        if as_json:
            shared_options.emit({"run": finished.run, "worker": finished.rank, "workers": finished.workers})
        return
    result = finished.read("result.json", "test", "bn", "proof", "train_seconds", "peak_memory_mib")
    if as_json:
        shared_options.emit({"run": str(finished), "status": finished.status, **result})
    else:
        show_result(finished, result)


def _show_plan(settings: RunConfig, *, quiet: bool, as_json: bool) -> None:
    """`--dry-run`: the display prints the plan on standard error, as at the beginning of a run."""
    from finetune.cli.display_training import ConsoleDisplay
    from finetune.training import start

    with ConsoleDisplay(quiet=quiet).running() as display:
        prepared = start.plan(settings, display=display)
    steps = prepared.steps_per_epoch * (prepared.config.epochs or 0)
    if as_json:
        stages = prepared.plan.stages()
        shared_options.emit({"config": prepared.config.to_json(), "steps": steps, "stages": stages})
    elif not quiet:
        click.echo(f"{len(prepared.dataset.train):,} training images, {steps:,} steps; nothing was trained or written")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        # A run directory is resumed from anywhere: paths in it must not depend on where it was started.
        return os.path.abspath(value)
    return list(value) if isinstance(value, tuple) else value
