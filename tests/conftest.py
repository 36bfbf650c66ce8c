"""What runs keep for each other stays out of the user's own cache while tests run."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """FINETUNE_HOME is a temporary folder, where nobody has set it."""
    with pytest.MonkeyPatch.context() as patch:
        if "FINETUNE_HOME" not in os.environ:
            patch.setenv("FINETUNE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
