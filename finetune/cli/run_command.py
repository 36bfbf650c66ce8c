"""The command `finetune run`: an option for every setting, by section, and those that say where the run is."""

import itertools
import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from finetune.cli.shared_options import (
    PATH,
    Sectioned,
    is_given,
    output_options,
    printed_json,
    progress,
    setting_option,
)
from finetune.cli.startup import load_tensorflow
from finetune.config import SETTINGS, RunConfig, from_mapping
from finetune.errors import WrongUse

SECTIONS = {
    section: [setting_option(name) for name in names]
    for section, names in itertools.groupby(SETTINGS, lambda name: SETTINGS[name].section)
}
SECTIONS["What to start from"] += [
    click.option("--config", type=PATH, metavar="FILE", help="A config.json to repeat; options given here win."),
    click.option("--resume", type=PATH, metavar="RUN", help="Continue an interrupted run directory."),
]
SECTIONS["What trains"] += [
    click.option(
        "--trainable-scopes", metavar="SCOPES", help="As slim's flag: only these scopes train. Printed as --freeze."
    ),
    click.option(
        "--checkpoint-exclude-scopes", metavar="SCOPES", help="As slim's flag, for the old head. Printed: not needed."
    ),
]
SECTIONS["The run"] += [
    click.option(
        "--dry-run",
        is_flag=True,
        help="Check the settings, read the data, build the network and print the plan; train and write nothing.",
    ),
    click.option("--run-dir", type=PATH, metavar="DIR", help="Directory of this run; must not exist."),
    click.option(
        "--runs-dir", type=PATH, metavar="DIR", default="runs", help="Folder in which runs get a name.  [default: runs]"
    ),
]


@click.command(cls=Sectioned, sections=SECTIONS)
@output_options
@click.pass_context
def run(
    ctx: click.Context,
    /,
    resume: Path | None,
    config: Path | None,
    run_dir: Path | None,
    runs_dir: Path,
    dry_run: bool,
    trainable_scopes: str | None,
    checkpoint_exclude_scopes: str | None,
    **given: Any,
) -> None:
    """Transfer a pretrained backbone to new data: replace the head, train, evaluate and write the run directory.

    \b
    finetune run --backbone resnet_v1_101 --bn-decay 0.95
    finetune run --backbone keras/densenet121 --freeze-until conv4 --bn 'conv5=train' --bn freeze
    """
    from finetune.runs.directory import RunDir, read_config_file, refuse_average

    chosen = {key: _plain(value) for key, value in given.items() if value is not None and value != ()}
    if resume is not None:
        typed = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        others = [name for name in typed if name not in ("resume", "distribute")]
        if others:
            raise WrongUse(
                "--resume takes everything from the run's config.json: give no other setting with it "
                f"(found --{others[0].replace('_', '-')})"
            )
    else:
        if config:
            refuse_average(config)
        base = read_config_file(config) if config else {}
        if not base and "backbone" not in chosen:
            raise WrongUse("missing --backbone NAME: 'finetune backbones list' lists them, resnet_v1_50 is one")
        _add_slims(chosen, trainable_scopes, checkpoint_exclude_scopes)
        settings = from_mapping(base, where=str(config or "the options"), options=chosen)

    load_tensorflow()
    from finetune.cli.display_training import show_result
    from finetune.training import start

    if dry_run:
        _show_plan(settings)
        return
    with progress(also_with_json=True) as display:
        if resume is not None:
            finished = start.resume(resume, distribute=chosen.get("distribute"), display=display)
        else:
            finished = start.start(settings, run_dir=run_dir, runs_dir=runs_dir, display=display)
    if not isinstance(finished, RunDir):  # a worker of a distributed run: the chief writes
        printed_json({"run": finished.run, "worker": finished.rank, "workers": finished.workers})
        return
    result = finished.read("result.json", "test", "bn", "proof", "train_seconds", "peak_memory_mib")
    if not printed_json({"run": str(finished), "status": finished.status, **result}):
        show_result(finished, result)


def _show_plan(settings: RunConfig) -> None:
    """`--dry-run`: the display prints the plan on standard error, as at the beginning of a run."""
    from finetune.training import start

    with progress(also_with_json=True) as display:
        prepared = start.plan(settings, display=display)
    steps = prepared.steps_per_epoch * (prepared.config.epochs or 0)
    value = {"config": prepared.config.to_json(), "steps": steps, "stages": prepared.plan.stages()}
    if not printed_json(value) and not is_given("quiet"):
        click.echo(f"{len(prepared.dataset.train):,} training images, {steps:,} steps; nothing was trained or written")


def _add_slims(chosen: dict[str, Any], trainable: str | None, excluded: str | None) -> None:
    """Add what slim's two flags mean to the settings that were `chosen`, and say it."""
    from finetune.cli import migrate_command

    if (trainable or excluded) and "backbone" not in chosen:
        raise WrongUse("--trainable-scopes and --checkpoint-exclude-scopes are of a slim network: give --backbone NAME")
    if trainable:
        if "freeze" in chosen:
            raise WrongUse("--trainable-scopes and --freeze both say what trains: give one of them")
        chosen["freeze"], said = migrate_command.freeze_rules(trainable, chosen["backbone"])
        click.echo(said, err=True)
    if excluded:
        click.echo(migrate_command.excluded(excluded, chosen["backbone"]), err=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        # A run directory is resumed from anywhere: paths in it must not depend on where it was started.
        return os.path.abspath(value)
    return list(value) if isinstance(value, tuple) else value
