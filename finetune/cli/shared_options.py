"""Options that several commands share, each declared once; what `--json` and `--quiet` do."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune import config
from finetune.cli.completion_command import complete_backbone
from finetune.config import SETTINGS
from finetune.text import ImageShape, ImageSize, shape_of

if TYPE_CHECKING:
    from finetune.cli.display_training import ConsoleDisplay


class _Path(click.ParamType[Path]):
    """A path; `~` means the home directory even if no shell has replaced it (`--run-dir=~/x`)."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if isinstance(value, str) and not value.strip():
            self.fail("it is empty, expected a path.", param, ctx)
        try:
            return Path(value).expanduser()
        except RuntimeError:
            return Path(value)


PATH = _Path()
COUNT = click.IntRange(min=1)
"""A number of images, or a size."""
COUNT.name = "whole number of 1 or more"


class _ImageSize(click.ParamType["ImageSize"]):
    """`96` or `24x32`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "ImageSize":
        try:
            shape = shape_of(int(value) if str(value).isdigit() else value)
            if min(shape) >= 1:
                return shape.setting
        except ValueError:
            pass
        self.fail(
            f"'{value}' is not valid: expected a side in px, such as 96, or HEIGHTxWIDTH, such as 24x32.", param, ctx
        )


IMAGE_SIZE = _ImageSize()


def _number(value: str) -> float | str:
    """A number. `finetune.config` checks any other text, such as `auto`; its error says what is expected."""
    try:
        return float(value)
    except ValueError:
        return value


def setting_option(name: str) -> Callable[..., Any]:
    """The click option of a setting, as it is declared. An option that is not given is None or (), so that a file's
    value or the default holds; values are checked by `finetune.config`."""
    setting = SETTINGS[name]
    check, flag = setting.check, f"--{name.replace('_', '-')}"
    words = setting.help + (f"  [default: {setting.default_words}]" if setting.default_words else "")
    if check.kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=words)
    kinds: dict[type, Any] = {Path: PATH, tuple: str, float: _number, ImageShape: IMAGE_SIZE}
    return click.option(
        *([flag, f"--{setting.short}"] if setting.short else [flag]),
        type=kinds.get(check.kind, check.kind),
        metavar=check.metavar,
        multiple=check.kind is tuple,
        help=words,
        shell_complete=complete_backbone if name == "backbone" else None,
        **({} if setting.alone is None else {"is_flag": False, "flag_value": setting.alone}),
    )


TARGET = click.argument("target", type=PATH, metavar="RUN")
SPLIT = click.option(
    "--split",
    type=click.Choice(["test", "validation", "train"]),
    default="test",
    help="Which images of the data.  [default: test]",
)
DATA_DIR = setting_option("data_dir")
NPZ_KEYS, TFRECORD_KEYS = setting_option("npz_keys"), setting_option("tfrecord_keys")
CSV_COLUMNS = setting_option("csv_columns")
LABEL_SEPARATOR = setting_option("label_separator")
MULTI_LABEL = click.option("--multi-label", is_flag=True, help=SETTINGS["multi_label"].help)
CHECKPOINT = setting_option("checkpoint")
RECIPE = tuple(map(setting_option, config.RECIPE))
SKIP_BAD_IMAGES = click.option("--skip-bad-images", is_flag=True, help=SETTINGS["skip_bad_images"].help)


def _keep(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[f"finetune.{param.name}"] = value
    if param.name == "quiet" and value:
        ctx.with_resource(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Keras's and TensorFlow's, about files and shapes of other people


JSON = click.option(
    "--json", is_flag=True, expose_value=False, callback=_keep, help="One JSON object on standard output, nothing else."
)
_QUIET = click.option(
    "--quiet", is_flag=True, expose_value=False, callback=_keep, help="No progress; results and errors only."
)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json` and `--quiet`, which `is_given`, `printed_json` and `progress` read."""
    return JSON(_QUIET(command))


def is_given(flag: str) -> bool:
    """Whether the running command was given `--json` or `--quiet`."""
    return bool(click.get_current_context().meta.get(f"finetune.{flag}"))


def printed_json(value: Any) -> bool:
    """With `--json`: print `value`, in ASCII, which is the same in every locale; NaN and infinity become null.

    Returns whether it did. Otherwise the command prints its result in words.
    """
    if not is_given("json"):
        return False
    import json

    from finetune.files import finite

    click.echo(json.dumps(finite(value), allow_nan=False))
    return True


@contextmanager
def progress(*, also_with_json: bool = False) -> Iterator["ConsoleDisplay"]:
    """Inside, progress is shown on standard error, but not with `--quiet`, and with `--json` only if asked for here."""
    from finetune.cli.display_training import ConsoleDisplay

    with ConsoleDisplay(quiet=is_given("quiet") or (is_given("json") and not also_with_json)).running() as display:
        yield display


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how photos come to the network's size."""
    for option in reversed(RECIPE):
        command = option(command)
    return command


class Sectioned(click.Command):
    """A command whose help lists its options under headings.

    `sections` are the options by heading, each as `click.option` makes it. Options that are in no section, such as
    those of decorators, are listed with the last one.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[Callable[..., Any]]], **settings: Any) -> None:
        self._headings: dict[str, str] = {}
        holder = click.Command(None)
        for heading, options in sections.items():
            first = len(holder.params)
            for option in options:
                option(holder)
            self._headings[str(holder.params[first].name)] = heading
        settings["params"] = [*holder.params, *settings.get("params", ())]
        super().__init__(*args, **settings)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options section by section; a heading holds until the first option of the next section."""
        heading = "Options"
        rows: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            heading = "Help" if "--help" in parameter.opts else self._headings.get(str(parameter.name), heading)
            if record := parameter.get_help_record(ctx):
                rows.setdefault(heading, []).append(record)
        for title, records in rows.items():
            with formatter.section(title):
                formatter.write_dl(records)
