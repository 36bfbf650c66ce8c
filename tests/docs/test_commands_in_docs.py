"""Every `finetune` command in README.md and docs/ is one that the command line takes, and every option exists.

Nothing is run: `test_docs_run.py` does that. `doc_pages.py` says what is a command.
"""

import re
import shlex
from pathlib import Path

import click
import pytest

from finetune.backbone.freezing import parse_freeze_rule
from finetune.batchnorm.policy import parse_bn_rule
from finetune.cli import main
from finetune.cli.run_command import run as run_command
from finetune.config import from_mapping
from finetune.errors import FinetuneError
from tests.docs.doc_pages import PAGES, blocks, commands, prose

OF_OTHERS = {"--signal", "--logdir", "--backend-store-uri"}
"""Options in the pages that belong to other programs (sbatch, tensorboard, mlflow)."""


def every(command, path=()):
    """Each command with its names, groups opened."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from every(inner, (*path, name))
    else:
        yield path, command


def parsed(words):
    """Raises what typing the words would, but for files that are not there."""
    command, context = main, click.Context(main, info_name="finetune")
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, info_name=name, parent=context)
    if words in (["--help"], ["-h"]):
        return
    if "B" in words:
        words[words.index("B") : words.index("B") + 1] = ["--backbone", "resnet_v1_50", "--data", "flowers/"]
    words = [word for word in words if word != "..."]
    given = command.make_context(context.info_name, words, parent=context.parent).params
    if command is run_command and not given["resume"] and not given["config"]:
        not_settings = ("resume", "config", "run_dir", "runs_dir", "dry_run")
        settings = {
            name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
            if name not in not_settings and value is not None and value != ()
        }
        chosen = from_mapping({}, where="the options", options=settings)
        for text in chosen.bn:
            parse_bn_rule(text)
        for text in chosen.freeze:
            parse_freeze_rule(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_taken(page, monkeypatch):
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: Path(value))
    wrong = []
    for where, words in commands(page):
        try:
            parsed(list(words))
        except (click.UsageError, FinetuneError) as error:
            said = error.format_message() if isinstance(error, click.UsageError) else str(error)
            wrong.append(f"{where}: finetune {shlex.join(words)}: {said}")
    assert not wrong, "\n".join(wrong)


def test_there_are_commands_to_check():
    assert sum(len(list(commands(page))) for page in PAGES) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_typed_is_marked_as_such(page):
    unmarked = [
        block.where
        for block in blocks(page)
        if block.language == "" and block.file is None and re.search(r"^(srun |\w+=\S+ )?finetune ", block.text, re.M)
    ]
    assert not unmarked, f"commands in blocks without a language, say ```sh: {unmarked}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_named_exists(page):
    known = {
        name for _, command in every(main) for param in command.params for name in (*param.opts, *param.secondary_opts)
    }
    spans = [
        span
        for span in re.findall(r"`([^`\n]+)`", prose(page))
        if not span.startswith(("python", "make", "pip", "sbatch"))
    ]
    named = {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", span)}
    assert named - known - {"--help", "--version"} - OF_OTHERS == set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run --backbone resnet_v1_50 --bn-decay 1.5", "decay"),
        ("run --backbone resnet_v1_50 --bn frozen", "frozen"),
        ("run --backbone resnet_v1_50 --optimizer adam", "optimizer"),
        ("run --backbon resnet_v1_50", "--backbon"),
        ("evaluate RUN --split tests", "tests"),
    ],
)
def test_a_wrong_command_would_be_found(words, said):
    with pytest.raises((click.UsageError, FinetuneError), match=said):
        parsed(shlex.split(words))


def test_what_belongs_to_a_page_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nX=1 finetune run --backbone a \\\n  --json > out.json   # why\nfinetune report RUN | tail -1\n```\n"
        "```\n$ finetune cache list\n3 entries\n```\n"
        "<!-- not run: a cluster -->\n```sh\nsrun finetune predict RUN x.jpg\n```\n"
        "<!-- file: night.toml -->\n```toml\n[defaults]\n```\n```python\nx = 1\n```\n"
    )
    assert [words for _, words in [*_commands_anywhere(page)]] == [
        ["run", "--backbone", "a", "--json"],
        ["report", "RUN"],
        ["cache", "list"],
        ["predict", "RUN", "x.jpg"],
    ]
    assert [(one.runs, one.not_run, one.file) for one in blocks(page)] == [
        (True, None, None),
        (True, None, None),
        (False, "a cluster", None),
        (True, None, "night.toml"),
        (True, None, None),
    ]


def _commands_anywhere(page):
    from tests.docs import doc_pages

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doc_pages, "ROOT", page.parent)
        yield from commands(page)
