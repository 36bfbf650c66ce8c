"""Presets set what is not given, once, and say so."""

from dataclasses import replace

import pytest

from finetune.config import DEFAULTS, RunConfig, check_config, from_mapping, presets
from finetune.errors import WrongUse
from finetune.runs.request import check_request

PLAIN = RunConfig(backbone="resnet_v1_demo")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_set_known_settings_that_nobody_gave(name):
    config = check_config(presets.expand(replace(PLAIN, preset=name)))
    for setting, value in presets.PRESETS[name].items():
        assert DEFAULTS[setting] in (None, ())
        assert getattr(config, setting) == value
    assert presets.expand(config) == config
    assert check_request(replace(PLAIN, preset=name)).config == config


@pytest.mark.parametrize(
    ("given", "freeze", "words"),
    [
        ({}, ("*",), "preset linear-probe: --freeze '*' --bn freeze"),
        ({"preset": "gradual", "unfreeze_epochs": 3}, (), "preset gradual: --layer-decay 0.8 --unfreeze-epochs 3"),
        ({"preset": "gradual", "layer_decay": 0.5}, (), "preset gradual: nothing; given instead: --layer-decay 0.5"),
        ({"bn": ("stats",)}, ("*",), "preset linear-probe: --freeze '*'; given instead: --bn stats"),
        ({"freeze_until": "block2"}, (), "preset linear-probe: --bn freeze; given instead: --freeze-until block2"),
    ],
)
def test_what_is_given_wins_and_is_said(given, freeze, words):
    config = presets.expand(replace(PLAIN, **{"preset": "linear-probe", **given}))
    assert config.freeze == freeze
    assert presets.describe(config) == words


def test_a_file_with_one_preset_takes_no_other():
    file = {"backbone": "resnet_v1_demo", "preset": "linear-probe", "freeze": ["*"]}
    assert from_mapping(file, where="config.json", options={"preset": "linear-probe"}).freeze == ("*",)
    with pytest.raises(WrongUse, match=r"config\.json has the settings of preset linear-probe written out"):
        from_mapping(file, where="config.json", options={"preset": "fine-tune"})


def test_a_config_of_before_presets_is_still_read():
    values = PLAIN.to_json()
    for name in (
        "preset",
        "few_shot",
        "layer_decay",
        "tta",
        "ema",
        "mixup",
        "cutmix",
        *("flip_vertical", "rotate", "rand_augment", "trivial_augment", "color_jitter", "erase"),
        "unfreeze_epochs",
    ):
        del values[name]
    assert from_mapping(values, where="config.json") == PLAIN
