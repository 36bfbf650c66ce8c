"""The options of `finetune run`: those of every setting, by section, and those that say where the run is."""

import itertools

import click

from finetune.cli import shared_options
from finetune.config import SETTINGS

SECTIONS = {
    section: [shared_options.setting_option(name) for name in names]
    for section, names in itertools.groupby(SETTINGS, lambda name: SETTINGS[name].section)
}
SECTIONS["What to start from"] += [
    click.option(
        "--config", type=shared_options.PATH, metavar="FILE", help="A config.json to repeat; options given here win."
    ),
    click.option("--resume", type=shared_options.PATH, metavar="RUN", help="Continue an interrupted run directory."),
]
SECTIONS["The run"] += [
    click.option(
        "--dry-run",
        is_flag=True,
        help="Check the settings, read the data, build the network and print the plan; train and write nothing.",
    ),
    click.option("--run-dir", type=shared_options.PATH, metavar="DIR", help="Directory of this run; must not exist."),
    click.option(
        "--runs-dir",
        type=shared_options.PATH,
        metavar="DIR",
        default="runs",
        help="Folder in which runs get a name.  [default: runs]",
    ),
]
