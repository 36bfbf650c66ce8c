"""Every `finetune` command in README.md and docs/ is one that the command line takes, and every option exists.

A command is a line of a fenced block that begins with `finetune ` or `$ finetune `; a comment may follow. Words in
capitals (RUN, DIR, FILE) stand for paths of the reader's, `B` for a backbone and its data.
"""

import re
import shlex
from pathlib import Path

import click
import pytest

from finetune.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OF_OTHERS = {"--signal", "--logdir", "--backend-store-uri"}
"""Options in the pages that belong to other programs (sbatch, tensorboard, mlflow)."""


def commands(page):
    """Words of every command of a page, without its comment."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for block in fenced:
        for line in block.replace("\\\n", " ").splitlines():
            typed = re.match(r"(?:\$ )?(?:\w+=\S+ )*finetune (.*)", line.strip())
            if typed:
                yield shlex.split(typed[1], comments=True)


def every(command, path=()):
    """Each command with its names, groups opened."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from every(inner, (*path, name))
    else:
        yield path, command


def parsed(words):
    """Raises click.UsageError as typing the words would, but for files that are not there."""
    command, context = main, click.Context(main, info_name="finetune")
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, info_name=name, parent=context)
    if words in (["--help"], ["-h"]):
        return
    if "B" in words:
        words[words.index("B") : words.index("B") + 1] = ["--backbone", "resnet_v1_50", "--data", "flowers/"]
    words = [word for word in words if word != "..."]
    command.make_context(context.info_name, words, parent=context.parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_taken(page, monkeypatch):
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: Path(value))
    wrong = []
    for words in commands(page):
        try:
            parsed(list(words))
        except click.UsageError as error:
            wrong.append(f"finetune {shlex.join(words)}: {error.format_message()}")
    assert not wrong, "\n".join(wrong)


def test_there_are_commands_to_check():
    assert sum(len(list(commands(page))) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_named_exists(page):
    known = {
        name for _, command in every(main) for param in command.params for name in (*param.opts, *param.secondary_opts)
    }
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = [
        span for span in re.findall(r"`([^`\n]+)`", text) if not span.startswith(("python", "make", "pip", "sbatch"))
    ]
    named = {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", span)}
    assert named - known - {"--help", "--version"} - OF_OTHERS == set()
