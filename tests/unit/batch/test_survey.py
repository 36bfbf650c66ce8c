"""What a survey reads: the data of jobs on the same images once."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from finetune.batch import survey
from finetune.batch.jobs import Job
from finetune.config import SETTINGS, RunConfig

PLAIN = RunConfig(backbone="resnet_v1_demo", data="demo-target")
OTHER = [
    *({"mixup": 0.2}, {"cutmix": 1.0}, {"rand_augment": 0.5}, {"crop_padding": 2}, {"augment": "flip"}),
    *({"flip_vertical": True}, {"rotate": 10}, {"trivial_augment": True}, {"color_jitter": 0.4}, {"erase": 0.25}),
    *({"ema": 0.9}, {"tta": "flip"}, {"precision": "bfloat16"}, {"microbatch": 8}, {"distribute": "mirrored"}),
    *({"preset": "gradual"}, {"layer_decay": 0.5}, {"unfreeze_epochs": 1}, {"freeze": ("*",)}, {"seed": 3}),
    *({"bn_renorm": True}, {"bn_zero_debias": True}, {"bn_sync": True}, {"diagnose_every": 2}, {"epochs": 2}),
    *({"allow_overlap": True}, {"features": "logits"}, {"batch_size": 16}, {"learning_rate": 0.1}),
]
"""Settings that choose no images, each with a value that is not its default."""


@pytest.fixture
def reads(monkeypatch):
    """The configs whose data was read."""
    found = []

    def load_data(config, **options):
        found.append(config)
        return SimpleNamespace(train=SimpleNamespace(images=np.zeros((200, 32, 32, 3), np.uint8)))

    survey._counted.cache_clear()
    monkeypatch.setattr(survey, "load_data", load_data)
    yield found
    survey._counted.cache_clear()


def surveyed(*configs):
    return survey.survey([Job(number, f"job {number}", "", config, {}) for number, config in enumerate(configs)])


def test_jobs_on_the_same_images_read_them_once(reads):
    found = surveyed(PLAIN, *(replace(PLAIN, **change) for change in OTHER))
    assert len(reads) == 1
    assert {one.images for one in found} == {200}


@pytest.mark.parametrize(
    "change",
    [
        *({"examples": 100}, {"few_shot": 5}, {"test": 0.3}, {"validation": 0.1}),
        *({"data_dir": "/x"}, {"data": "demo-source"}, {"skip_bad_images": True}),
    ],
)
def test_jobs_on_other_images_read_those(reads, change):
    surveyed(PLAIN, replace(PLAIN, **change))
    assert len(reads) == 2
    (name,) = change
    assert "chooses_images" in SETTINGS[name].roles
