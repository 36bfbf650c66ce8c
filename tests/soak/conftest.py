"""One watched process and one corpus for all fuzzers of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_process import Reading


@pytest.fixture(scope="session")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reading]:
    process = Reading(tmp_path_factory.mktemp("sandbox"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import corpus

    return corpus.make_trees(tmp_path_factory.mktemp("whole"))
