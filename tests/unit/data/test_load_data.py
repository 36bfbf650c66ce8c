"""The table of names, and what is taken of a data set."""

import numpy as np
import pytest

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError, WrongUse
from tests.support import written_cifar as written


def load(folder, *, data="cifar10", validation=0.0, **settings):
    place = folder and str(folder)
    return load_data(RunConfig("any", data=data, data_dir=place, validation=validation, **settings))


@pytest.fixture(autouse=True)
def folder(tmp_path):
    return written.write_pickled(tmp_path)


def test_everything_by_default(tmp_path):
    dataset = load(tmp_path)
    assert (len(dataset.train), dataset.validation, len(dataset.test)) == (100, None, 20)
    assert dataset.name == "cifar10"


def test_examples_are_the_budget_and_validation_is_part_of_it(tmp_path):
    dataset = load(tmp_path, examples=40, validation=0.25)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (30, 10, 20)
    assert np.bincount(dataset.train.labels).tolist() == [3] * 10
    assert dataset.fingerprint() == load(tmp_path, examples=40, validation=0.25).fingerprint()
    assert dataset.fingerprint() != load(tmp_path, examples=40, validation=0.25, seed=1).fingerprint()


def test_all_few_shots_train_and_validation_images_are_others(tmp_path):
    def shots(count, validation, seed=0):
        return load(tmp_path, few_shot=count, validation=validation, seed=seed)

    dataset = shots(4, 0.25)
    assert np.bincount(dataset.train.labels).tolist() == [4] * 10
    assert (len(dataset.validation), len(dataset.test)) == (10, 20)
    pixels = {image.tobytes() for image in dataset.train.images}
    assert not pixels & {image.tobytes() for image in dataset.validation.images}
    assert shots(10, 0.0).validation is None
    with pytest.raises(WrongUse, match="--few-shot leaves 0 other images, of which 5 would be held out"):
        shots(10, 0.05)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CIFAR-10", "did you mean cifar10?"),
        ("demo_targets", "did you mean demo-target?"),
        (
            "imagenet",
            "unknown data 'imagenet': expected one of cifar10, cifar100, cifar100-coarse, mnist, fashion_mnist, ",
        ),
    ],
)
def test_an_unknown_name_is_wrong_use(name, said):
    with pytest.raises(WrongUse) as caught:
        load(None, data=name)
    assert said in str(caught.value)


def test_generated_data_take_no_folder():
    with pytest.raises(WrongUse, match="demo-target is generated, not read from here: leave --data-dir out"):
        load("here", data="demo-target")


def test_generated_data_are_the_same_for_every_seed():
    dataset = load(None, data="demo-target", seed=1)
    # Of demo_target(): it changes with the images, see test_generated.py.
    assert dataset.fingerprint()[:16] == "3a71c792b309fd1a"
    assert (len(dataset.train), len(dataset.test), len(dataset.class_names)) == (2_000, 1_000, 10)


def test_what_cannot_be_is_wrong_use(tmp_path):
    with pytest.raises(WrongUse, match="101 examples are more than the 100"):
        load(tmp_path, examples=101)
    with pytest.raises(WrongUse, match="9 examples are fewer than the 10 classes"):
        load(tmp_path, examples=9)
    with pytest.raises(WrongUse, match="--validation"):
        load(tmp_path, examples=10, validation=0.05)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FinetuneError, match="nowhere holds no CIFAR-10") as caught:
        load(tmp_path / "nowhere")
    assert caught.value.exit_code == 1
