"""Help says everything, costs nothing, and a closed or full output ends in no traceback."""

import subprocess
import sys

import click
import pytest

from finetune.cli import main

FINETUNE = (sys.executable, "-m", "finetune")


def commands(command, path=("finetune",)):
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


@pytest.mark.parametrize(("path", "command"), list(commands(main)), ids=lambda value: str(value))
def test_every_command_and_option_has_help(path, command):
    assert (command.help or "").strip(), path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert (parameter.help or "").strip(), f"{' '.join(path)} {parameter.opts}"


def test_exit_codes_are_documented():
    epilog = main.epilog or ""
    for words in ("0 fine", "1 failed", "2 wrong use", "3 the diagnosis", "130 interrupted"):
        assert words in epilog


def test_help_does_not_import_tensorflow():
    program = """
import sys
from click.testing import CliRunner
from finetune.cli import main
for arguments in ("--help", "run --help", "export --help", "migrate --help", "backbones list"):
    assert CliRunner().invoke(main, arguments.split()).exit_code == 0
slow = {"numpy", "requests", "filelock", "importlib.metadata"} & set(sys.modules)
assert not slow, slow
CliRunner().invoke(main, ["run", "--backbone", "x", "--epochs", "0"])
heavy = {"tensorflow", "keras", "h5py"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("backbones", "list"), ("backbones", "list", "--json")])
@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_output_is_one_message(arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*FINETUNE, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the disk is full")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_ends_it_silently():
    # As `finetune backbones list --json | true` does.
    done = subprocess.Popen(
        [*FINETUNE, "backbones", "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    done.stdout.close()
    with done.stderr:
        assert done.stderr.read() == ""
    assert done.wait() in (0, 1)
