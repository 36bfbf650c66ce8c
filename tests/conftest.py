"""What holds for all tests: a cache of their own, one thread a worker, no optimised graphs."""

import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.process import set_environment
from tests.support.shared import Printed, made_once

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores already. Read when NumPy and TensorFlow are imported, also by processes of tests.
    for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")
set_environment()  # as the command line does: the bits of a run depend on oneDNN


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--optimised-graphs",
        action="store_true",
        help="TensorFlow optimises graphs in every test, as it does for users; else in those marked 'optimised_graphs'",
    )


@pytest.hookimpl(tryfirst=True)  # before '-m' chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is marked `quick_cases(n)`, the cases after the n-th are slow."""
    seen: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("quick_cases")
        if mark is not None and item.get_closest_marker("slow") is None:
            name = item.nodeid.partition("[")[0]
            seen[name] += 1
            if seen[name] > mark.args[0]:
                item.add_marker("slow")


def pytest_collection_finish() -> None:
    """What is imported by now stays: no collection of garbage needs to look at it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Modules that plugins import at the end may ask the collector who refers to what."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """FINETUNE_HOME is a temporary folder, where nobody has set it."""
    with pytest.MonkeyPatch.context() as patch:
        if "FINETUNE_HOME" not in os.environ:
            patch.setenv("FINETUNE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Printed]:
    """A finished run of the bundled network that nobody may change, and what the command printed."""
    from tests.support.commands import typed  # it imports Keras

    def make(folder: Path) -> Printed:
        result = typed(f"run SMALL --quiet --json --run-dir {folder / 'run'}")
        assert result.exit_code == 0, result.output
        return Printed(result.stdout, result.stderr)

    folder, printed = made_once(tmp_path_factory, "finished", make)
    return folder / "run", printed


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything that is kept lies, FINETUNE_HOME, for one test alone; not there yet."""
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _tensorflow() -> Any:
    """`tf.config`, if something has imported TensorFlow already."""
    return sys.modules.get("tensorflow.python.framework.config")


@pytest.fixture(autouse=True)
def graphs_are_optimised_where_it_matters(request: pytest.FixtureRequest) -> None:
    """TensorFlow's graph optimiser takes a fifth of a small run's time, and changes no more than the rounding.

    Tests of the numbers themselves are marked `optimised_graphs`; `make test-all` optimises in all.
    """
    config = _tensorflow()
    if config is not None:
        wanted = bool(
            request.config.getoption("--optimised-graphs") or request.node.get_closest_marker("optimised_graphs")
        )
        if config.get_optimizer_experimental_options().get("disable_meta_optimizer", False) == wanted:
            config.set_optimizer_experimental_options({"disable_meta_optimizer": not wanted})


def _deterministic() -> bool:
    config = _tensorflow()
    return config is not None and config.is_op_determinism_enabled()


@pytest.fixture(autouse=True)
def nothing_becomes_deterministic() -> Iterator[None]:
    """TensorFlow's determinism cannot be switched off again: tests of the same process that draw numbers would fail."""
    before = _deterministic()
    yield
    if _deterministic() and not before:
        pytest.fail("it made the whole process deterministic: it needs a process of its own")
