"""Options that several commands share, each declared once."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from finetune.cli import completion_command
from finetune.config import SETTINGS


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


class _Count(click.IntRange):
    """A number of images, or a size."""

    name = "whole number of 1 or more"

    def __init__(self) -> None:
        super().__init__(min=1)


PATH = _Path()
COUNT = _Count()


class NumberOrAuto(click.ParamType[Any]):
    """A number or `auto`; the library checks the range, which the message quotes as `expected`."""

    name = "number or auto"

    def __init__(self, expected: str) -> None:
        self._expected = expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click's."""
        if value == "auto":
            return value
        try:
            return float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} will not do: expected {self._expected}", param, ctx)


def setting_option(name: str) -> Callable[..., Any]:
    """The click option of a setting, as it is declared. An option that is not given is None or (), so that a file's
    value or the default holds; values are checked by `finetune.config`."""
    setting = SETTINGS[name]
    check, flag = setting.check, f"--{name.replace('_', '-')}"
    words = setting.help + (f"  [default: {setting.default_words}]" if setting.default_words else "")
    if check.kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=words)
    kinds: dict[type, Any] = {Path: PATH, tuple: str}
    kind = NumberOrAuto(check.expected) if check.kind is float and check.choices else kinds.get(check.kind, check.kind)
    return click.option(
        *([flag, f"--{setting.short}"] if setting.short else [flag]),
        type=kind,
        metavar=check.metavar,
        multiple=check.kind is tuple,
        help=words,
        shell_complete=completion_command.complete_backbone if name == "backbone" else None,
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
CHECKPOINT = setting_option("checkpoint")
SKIP_BAD_IMAGES = click.option("--skip-bad-images", is_flag=True, help=SETTINGS["skip_bad_images"].help)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output, nothing else.")
QUIET = click.option("--quiet", is_flag=True, help="No progress; results and errors only.")


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


def emit(value: Any) -> None:
    """Print the JSON object of `--json`, in ASCII: it is the same in every locale. NaN and infinity become null."""
    import json

    from finetune.files import finite

    click.echo(json.dumps(finite(value), allow_nan=False))
