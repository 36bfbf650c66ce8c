"""Photos that are decoded when they are asked for: found again by their bytes, wherever they lie and however named."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from tests.support.small_features import CONFIG, classifier, trained

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(60):
        folder = root / "abc"[number % 3]
        folder.mkdir(exist_ok=True)
        pixels = rng.integers(0, 80, (40, 50 + number % 7, 3)) + 60 * (number % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


def dataset(folder, seed=0):
    return load_data(RunConfig("any", data=str(folder), validation=0.2, seed=seed, test=0.3))


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["none", "flip"])
def test_every_figure_is_that_of_decoded_photos(photos, augment):
    config = dataclasses.replace(CONFIG, augment=augment, batch_size=8)
    features = trained(classifier(), dataset(photos), config)
    images = trained(classifier(), dataset(photos), dataclasses.replace(config, cache_features="off"))
    assert features.about["read"] == 0
    assert features.losses == pytest.approx(images.losses, rel=1e-5)
    for mode, counted in images.test.items():
        assert features.test[mode].correct == counted.correct


@pytest.mark.slow
def test_moved_renamed_and_split_anew_they_are_the_same_and_an_edited_one_is_another(photos, tmp_path):
    trained(classifier(), dataset(photos), dataclasses.replace(CONFIG, epochs=1))
    moved = tmp_path / "elsewhere"
    shutil.copytree(photos, moved)
    for path in sorted(moved.rglob("*.png")):
        path.rename(path.with_name(f"renamed-{path.name}"))
    again = trained(classifier(), dataset(moved, seed=4), dataclasses.replace(CONFIG, epochs=1, seed=4))
    measured = again.about["computed"]  # under batch statistics, other test images in other batches
    assert again.about["read"] == 60
    path = next(iter(sorted(moved.rglob("*.png"))))
    pixels = np.array(Image.open(path))
    pixels[20, 25] ^= 255
    Image.fromarray(pixels).save(path)
    edited = trained(classifier(), dataset(moved, seed=4), dataclasses.replace(CONFIG, epochs=1, seed=4))
    assert edited.about["computed"] in (1, 1 + measured)
