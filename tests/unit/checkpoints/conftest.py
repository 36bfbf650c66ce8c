"""A cache of its own for every test, the misbehaving server, and the real files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.misbehaving_server import Server
from tests.support.places import SHARED

CHECKPOINTS = SHARED / "checkpoints"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FINETUNE_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def shared() -> Path:
    if not CHECKPOINTS.is_dir():
        pytest.skip("the real checkpoints are not beside the project (../shared/checkpoints)")
    return CHECKPOINTS
