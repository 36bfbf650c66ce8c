"""One watched process and one corpus for all fuzzers of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.hostile_process import Reading
from tests.soak.small_server import serving


@pytest.fixture(scope="session")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reading]:
    process = Reading(tmp_path_factory.mktemp("sandbox"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.soak import corpus

    return corpus.make_trees(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    path = tmp_path_factory.mktemp("backbone") / "tiny.keras"
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = start = keras.Input((12, 12, 3))
    x = layers.Rescaling(1 / 127.5, -1)(x)
    for number, filters in ((1, 6), (2, 8)):
        x = layers.Conv2D(filters, 3, strides=2, use_bias=False, name=f"conv{number}")(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"bn{number}")(x))
    keras.Model(start, layers.GlobalAveragePooling2D()(x)).save(path)
    return path


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with serving() as found:
        yield found
