"""Options that several commands share, each worded once."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click


class _Path(click.ParamType[Path]):
    """A path; `~` is the home directory also where no shell has replaced it (`--run-dir=~/x`)."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, str) and not value.strip():
            self.fail("it is empty, expected a path.", param, ctx)
        try:
            return Path(value).expanduser()
        except RuntimeError:
            return Path(value)


class _Count(click.IntRange):
    """A number of images."""

    name = "whole number of 1 or more"

    def __init__(self) -> None:
        super().__init__(min=1)


PATH = _Path()
COUNT = _Count()

TARGET = click.argument("target", type=PATH, metavar="RUN")
DATA = click.option(
    "--data",
    metavar="NAME|PATH",
    help="cifar10, cifar100, cifar100-coarse, demo-source, demo-target or tfds:NAME; or a folder of images per class "
    "(with train/, val/, test/ or without), a folder of slim's TFRecords, or an .npz.  [default: cifar10]",
)
DATA_DIR = click.option(
    "--data-dir",
    type=PATH,
    metavar="DIR",
    help="Folder that holds the data: cifar-10-batches-py/, cifar-100-python/ or the like, or the .tar.gz; for a path "
    "given with --data, where that lies now.",
)
SKIP_BAD_IMAGES = click.option("--skip-bad-images", is_flag=True, help="Leave damaged images out, and say which.")
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
QUIET = click.option("--quiet", is_flag=True, help="No progress; results and errors only.")
CHECKPOINT = click.option(
    "--checkpoint",
    type=PATH,
    metavar="PATH",
    help="Your own file of the backbone's weights: slim V1/V2 file, .ckpt prefix, training directory or .tar.gz; "
    "Keras .h5, .weights.h5 or .keras; SavedModel directory. Default: the published file, from the cache or fetched.",
)


class Sectioned(click.Command):
    """A command of many options, listed under headings: `sections` are the options by heading, each as `click.option`
    makes it. Options the command has besides are listed with the last."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[Callable[..., Any]]], **settings: Any) -> None:
        self._headings = dict[str, str]()
        parameters = list[click.Parameter]()
        for heading, made in sections.items():
            holder = click.command()(_nothing)
            for option in reversed(made):
                option(holder)
            listed = list(reversed(holder.params))
            self._headings[str(listed[0].name)] = heading
            parameters += listed
        settings["params"] = [*parameters, *settings.get("params", ())]
        super().__init__(*args, **settings)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, section by section."""
        heading, rows = "Options", list[tuple[str, str]]()
        for parameter in self.get_params(ctx):
            following = "Help" if "--help" in parameter.opts else self._headings.get(str(parameter.name))
            if following is not None:
                _write(formatter, heading, rows)
                heading, rows = following, []
            record = parameter.get_help_record(ctx)
            if record is not None:
                rows.append(record)
        _write(formatter, heading, rows)


def _nothing() -> None:
    """Holds options until a command has them."""


def _write(formatter: click.HelpFormatter, heading: str, rows: list[tuple[str, str]]) -> None:
    if rows:
        with formatter.section(heading):
            formatter.write_dl(rows)


def emit(value: Any) -> None:
    """Print the JSON object of `--json`, in ASCII: it is the same in every locale. NaN and infinity become null."""
    import json

    from finetune.files import finite

    click.echo(json.dumps(finite(value), allow_nan=False))


class NumberOrAuto(click.ParamType[Any]):
    """A number or `auto`; the library checks the range, which is only named here."""

    name = "F|auto"

    def __init__(self, allowed: str) -> None:
        self._allowed = allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click's."""
        if value == "auto":
            return value
        try:
            return float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is neither a number {self._allowed} nor 'auto'", param, ctx)
