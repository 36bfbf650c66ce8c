"""What runs keep for each other stays out of the user's own cache while tests run."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """FINETUNE_HOME is a temporary folder, where nobody has set it."""
    with pytest.MonkeyPatch.context() as patch:
        if "FINETUNE_HOME" not in os.environ:
            patch.setenv("FINETUNE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def _deterministic() -> bool:
    config = sys.modules.get("tensorflow.python.framework.config")
    return config is not None and config.is_op_determinism_enabled()


@pytest.fixture(autouse=True)
def nothing_becomes_deterministic() -> Iterator[None]:
    """TensorFlow's determinism cannot be switched off again: tests of the same process that draw numbers would fail."""
    before = _deterministic()
    yield
    if _deterministic() and not before:
        pytest.fail("it made the whole process deterministic: it needs a process of its own")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything that is kept lies, FINETUNE_HOME, for one test alone; not there yet."""
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
