"""The page of the command line for the site, in Markdown, from the commands of `finetune.cli`."""

import html
import inspect
import re
from collections.abc import Iterator

import click


def commands(command: click.Command, path: tuple[str, ...] = ("finetune",)) -> Iterator[tuple[str, click.Command]]:
    """(what is typed, command) of a command and of all below it, by name."""
    yield " ".join(path), command
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from commands(inner, (*path, name))


def without_help(root: click.Command) -> list[str]:
    """The commands and options that say nothing about themselves."""
    found = [typed for typed, command in commands(root) if not (command.help or "").strip()]
    return found + [
        f"{typed} {option.opts[0]}"
        for typed, command in commands(root)
        for option in command.params
        if isinstance(option, click.Option) and not (option.help or "").strip()
    ]


def cli_page(root: click.Command) -> str:
    """A section for each command: help, usage, and a table of its options."""
    parts = ["# Command line", "What `--help` (`-h`) prints of every command."]
    for typed, command in commands(root):
        context = click.Context(command, info_name=typed)
        usage = " ".join((typed, *command.collect_usage_pieces(context)))
        parts += [f"##{'#' * (typed.count(' ') > 1)} {typed}", *_prose(command.help or ""), f"```text\n{usage}\n```"]
        parts += _prose(command.epilog or "")
        options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
        rows = [f"| {_names(one, context)} | {escaped(' '.join((one.help or '').split()))} |" for one in options]
        parts += ["\n".join(("| option | meaning |", "|---|---|", *rows))] if rows else []
    return "\n\n".join(parts) + "\n"


def _names(option: click.Option, context: click.Context) -> str:
    """`-h, --help`, or `--epochs N`: each name by itself, so that a narrow page can break between them."""
    takes = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
    names = ", ".join(f"<code>{html.escape(name)}</code>" for name in (*option.opts, *option.secondary_opts))
    return f"{names}{escaped(takes)}"


def _prose(text: str) -> Iterator[str]:
    """The paragraphs of a help text; one that begins with `\\b` keeps its lines."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        head, _, rest = paragraph.partition("\n")
        yield f"```text\n{rest}\n```" if head == "\b" else escaped(paragraph)


def escaped(text: str) -> str:
    """Plain text that Markdown leaves as it is, also in a table."""
    return html.escape(re.sub(r"([\\`*_\[\]])", r"\\\1", text), quote=False).replace("|", "&#124;")
