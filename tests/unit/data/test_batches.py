"""How the settings of a run become its augmentation, and which images cannot be augmented so."""

from dataclasses import replace

import numpy as np
import pytest

from finetune.config import CHANGES, RunConfig
from finetune.data import batches
from finetune.data.augmentation import Augmentation
from finetune.data.dataset import Split
from finetune.errors import WrongUse

CONFIG = RunConfig("resnet_v1_demo", image_size=8, batch_size=4, preprocess="raw", crop_padding=2)


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        ("none", Augmentation(0, False)),
        ("flip", Augmentation(0, True)),
        ("crop", Augmentation(2, False)),
        ("crop-flip", Augmentation(2, True)),
        ("resized-crop", Augmentation(0, False, resized_crop=True)),
        ("resized-crop-flip", Augmentation(0, True, resized_crop=True)),
    ],
)
def test_crops_and_flips(augment, expected):
    assert batches.augmentation(replace(CONFIG, augment=augment)) == expected


def test_all_other_changes_reach_the_augmentation():
    given = {"flip_vertical": True, "rotate": 5, "rand_augment": 0.5, "trivial_augment": True, "color_jitter": 0.4}
    given |= {"erase": 0.25, "mixup": 0.2, "cutmix": 1.0}
    assert {*given} == {*CHANGES}
    assert batches.augmentation(replace(CONFIG, augment="none", **given)) == Augmentation(0, False, **given)


@pytest.mark.parametrize("change", [{"rand_augment": 0.5}, {"trivial_augment": True}, {"color_jitter": 0.4}])
def test_colours_of_four_channels_cannot_be_changed(change):
    split = Split(np.zeros((8, 8, 8, 4), np.uint8), np.arange(8) % 2)
    config = replace(CONFIG, image_size="8x8x4", augment="none")
    option = next(iter(change)).replace("_", "-")
    with pytest.raises(WrongUse, match=f"^--{option} changes the colours of grey or RGB images, .*: leave it out"):
        batches.check_augmentation(split, replace(config, **change))
    config = replace(config, flip_vertical=True, rotate=30, erase=0.5)
    batches.check_augmentation(split, config)
    images, _ = next(iter(batches.training(split, config, epoch=0, start=0)))
    assert images.shape == (4, 8, 8, 4)
