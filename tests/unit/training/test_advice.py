"""What a run is warned of before it starts."""

import dataclasses
from types import SimpleNamespace

import pytest

from checkpoints.catalog.lookup import find_row
from finetune.config import RunConfig
from finetune.training.advice import warnings

SPEC = find_row("resnet_v1_50")
FINE = RunConfig("resnet_v1_50", bn_decay=0.95, batch_size=32, preprocess="vgg", recalibrate_at_end=False)


def ready(config, spec, *, steps, batch_statistics):
    """What the warnings read of a prepared run of `steps` steps, 100 an epoch."""
    return SimpleNamespace(
        config=config,
        backbone=SimpleNamespace(spec=spec),
        plan=SimpleNamespace(uses_batch_statistics=batch_statistics),
        last_phase_steps=steps,
        steps_per_epoch=100,
        parts_per_step=1,
    )


def said(steps=1000, batch_statistics=True, **settings):
    config = dataclasses.replace(FINE, **settings)
    return " | ".join(warnings(ready(config, SPEC, steps=steps, batch_statistics=batch_statistics)))


def test_a_sound_run_is_not_warned():
    assert said() == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bn_decay": 0.9997}, ["leaves 74% of the starting statistics after 1000 updates", "--bn-decay 0.9 "]),
        ({"batch_size": 8}, ["--batch-size 8", "16 or more", "--bn freeze"]),
        ({"preprocess": "torch"}, ["--preprocess torch", "trained with vgg"]),
        ({"bn_updates": "off"}, ["UPDATE_OPS"]),
    ],
)
def test_each_concern_names_the_setting_and_the_way_out(settings, words):
    sentence = said(**settings)
    assert all(word in sentence for word in words), sentence


def test_no_concern_where_it_does_not_apply():
    assert said(bn_decay=0.9997, recalibrate_at_end=True) == ""
    assert said(bn_decay=0.9997, batch_size=4, batch_statistics=False) == ""
    assert said(preprocess="torch", from_scratch=True) == ""
    # 0.95^89 is just over 1 %, 0.95^90 just under.
    assert "starting statistics" in said(steps=89)
    assert said(steps=90) == ""
