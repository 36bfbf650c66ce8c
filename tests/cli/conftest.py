"""Tiny runs, made once."""

import os
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from click.testing import Result
from typing_commands import typed

from finetune.cli.display import ConsoleDisplay
from finetune.data import sources


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
