"""Tiny runs, made once."""

import pickle
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from finetune.data import load_data
from tests.commands.bad_places import Evil, write_checkpoints, write_cifar, write_strangers
from tests.support.commands import stop_at, tree, typed
from tests.support.shared import Printed, made_once


@pytest.fixture(scope="session", autouse=True)
def drawn_once() -> Iterator[None]:
    """The generated images, half a second's work, once for all commands of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(load_data._GENERATED, "demo-target", cache(load_data._GENERATED["demo-target"]))
        yield


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody may change, stopped by Ctrl-C at its second step."""

    def make(folder: Path) -> None:
        run = folder / "run"
        with pytest.MonkeyPatch.context() as patch:
            stop_at(2, patch)
            result = typed(f"run TINY --quiet --run-dir {run}")
        assert result.exit_code == 130, result.output
        assert result.stderr == f"Error: stopped at step 2 of 12; continue with: finetune run --resume {run}\n"

    return made_once(tmp_path_factory, "interrupted", make)[0] / "run"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, finished: tuple[Path, Printed], interrupted: Path) -> Path:
    """The folder the commands are typed in, with everything they name."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "file").write_text("a file")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "cut.json").write_text('{"backbone": "resn')
    (folder / "newer.json").write_text('{"format_version": 99, "backbone": "resnet_v1_demo"}')
    (folder / "headless.json").write_text('{"data": "demo-target"}')
    (folder / "folder").mkdir()
    write_checkpoints(folder / "ckpt")
    write_strangers(folder / "of", finished[0])
    ten = list(range(10)) * 2
    write_cifar(folder / "cifar" / "empty-class", [9 if label == 3 else label for label in ten])
    write_cifar(folder / "cifar" / "label", [99, *ten])
    write_cifar(folder / "cifar" / "corrupt", ten, lambda content: content[:1000])
    write_cifar(folder / "cifar" / "evil", ten, lambda _: pickle.dumps({b"data": Evil(), b"labels": ten}))
    shutil.copytree(finished[0], folder / "run")
    shutil.copytree(interrupted, folder / "stopped run")
    return folder


@pytest.fixture
def refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A command that must fail with the exit code, saying the words, once, and changing nothing."""
    monkeypatch.chdir(place)

    def check(line: str, exit_code: int, *words: str) -> str:
        before = tree(place)
        result = typed(line)
        assert result.exit_code == exit_code, result.output
        assert isinstance(result.exception, SystemExit)
        assert result.stdout == ""
        assert result.stderr.startswith("Error: "), result.stderr
        assert f"\n{result.stderr}".count("\nError: ") == 1
        assert "Traceback" not in result.stderr
        assert "unexpected" not in result.stderr.replace("unexpected extra argument", "")
        for word in words:
            assert word in result.stderr, (word, result.stderr)
        assert tree(place) == before
        return result.stderr

    return check
