"""Tiny runs, made once, and commands called as a user types them."""

import os
import shlex
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from finetune.cli import main
from finetune.cli.display import ConsoleDisplay
from finetune.data import sources

SMALL = (
    "--backbone resnet_v1_demo --data demo-target --examples 100 --epochs 3 --image-size 16 --batch-size 20 "
    "--learning-rate 0.003"
)


def typed(line: str) -> Result:
    """What `finetune LINE` does, in this process; SMALL in it stands for the settings of a tiny run."""
    return CliRunner().invoke(main, shlex.split(line.replace("SMALL", SMALL)), prog_name="finetune")


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and directory below `folder`, with size and time of modification of the files, except of locks: they
    note who held them last."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        if path.is_file() and path.name != ".lock"
        else (0, 0)
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="session", autouse=True)
def drawn_once() -> Iterator[None]:
    """The generated images, half a second's work, once for all commands of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources._GENERATED, "demo-target", cache(sources._GENERATED["demo-target"]))
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished run that nobody may change, and what the command printed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    result = typed(f"run SMALL --quiet --json --run-dir {run}")
    assert result.exit_code == 0, result.output
    return run, result


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody may change, stopped by Ctrl-C at its second step."""
    run = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        seen = ConsoleDisplay.step

        def step(self: ConsoleDisplay, **values: float) -> None:
            seen(self, **values)
            if values["step"] == 2:
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(ConsoleDisplay, "step", step)
        result = typed(f"run SMALL --quiet --run-dir {run}")
    assert result.exit_code == 130, result.output
    assert result.stderr == f"Error: stopped at step 2 of 12; continue with: finetune run --resume {run}\n"
    return run
