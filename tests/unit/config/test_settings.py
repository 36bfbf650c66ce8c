"""A setting is declared once: its check, its option, the key of a file and the table in the docs come from there."""

from dataclasses import MISSING, dataclass, replace

import pytest

from finetune.cli.run_command import run
from finetune.config import (
    DEFAULTS,
    LISTS,
    PATHS,
    SETTINGS,
    RunConfig,
    check_config,
    from_mapping,
    presets,
    settings_with,
)
from finetune.config.checking import CONTRADICTIONS
from finetune.config.settings import declared_settings, setting, whole
from finetune.errors import WrongUse
from tools import settings_table

PLAIN = RunConfig(backbone="resnet_v1_demo")
OPTIONS = {option.name: option for option in run.params}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_declaration_is_complete(name):
    declared = SETTINGS[name]
    assert declared.help.endswith(".")
    assert declared.section
    assert declared.default in (None, MISSING) or declared.check.test(declared.default)
    assert declared.check.expected
    assert declared.check.metavar or declared.check.kind is bool
    assert not declared.unset or declared.default is None


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_an_option(name):
    declared, option = SETTINGS[name], OPTIONS[name]
    flag = f"--{name.replace('_', '-')}"
    assert flag in option.opts
    assert option.help.startswith(declared.help)
    assert option.multiple == (name in LISTS)
    assert run.make_context("run", []).params[name] in (None, ())
    assert f"[default: {declared.default_words}]" in option.help or not declared.default_words
    if declared.check.kind is bool:
        assert option.secondary_opts == [f"--no-{flag[2:]}"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *(("test", "0.2"), ("validation", "0.05"), ("dropout", "0"), ("seed", "0"), ("bn_renorm", "off")),
        *(("bn_decay", "auto"), ("learning_rate", "by optimizer and batch"), ("epochs", "by the number of images")),
        *(("freeze", ""), ("mixup", ""), ("backbone", ""), ("cache_budget", "a quarter of the free disk")),
    ],
)
def test_defaults_in_words(name, words):
    assert SETTINGS[name].default_words == words


def test_the_learning_rate_has_a_short_name():
    assert OPTIONS["learning_rate"].opts == ["--learning-rate", "--lr"]
    assert from_mapping({"backbone": "x", "lr": "auto"}, where="here").learning_rate == "auto"


def test_keys_are_those_of_config_json():
    assert list(PLAIN.to_json()) == list(SETTINGS)
    assert set(DEFAULTS) == set(SETTINGS) - {"backbone"}
    assert PATHS == ("checkpoint", "data_dir", "exclude")
    assert LISTS == ("freeze", "bn", "tracker")


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (
            "chooses_images",
            {"data", "data_dir", "examples", "few_shot", "test", "validation", "skip_bad_images"}
            | {"npz_keys", "tfrecord_keys", "csv_columns", "background_class", "exclude"}
            | {"multi_label", "label_separator"},
        ),
        (
            "decides_features",
            {"backbone", "checkpoint", "data", "data_dir", "image_size", "preprocess", "augment", "bn_epsilon"}
            | {"features", "output", "cache_precision", "npz_keys", "tfrecord_keys", "csv_columns", "from_averages"}
            | {"resize_mode", "crop_fraction", "eval_recipe"},
        ),
        (
            "may_change_on_resume",
            {"data_dir", "allow_overlap", "checkpoint", "cache_features", "cache_budget", "distribute", "tracker"}
            | {"exclude"},
        ),
        ("not_compared", {"data_dir", "tracker"}),
    ],
)
def test_roles(role, names):
    assert set(settings_with(role)) == names


def test_the_choice_of_presets_is_the_table_of_presets():
    assert SETTINGS["preset"].check.choices == tuple(presets.PRESETS)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_decay_outside_the_open_interval(decay):
    with pytest.raises(WrongUse, match=rf"--bn-decay {decay} is not valid: .* number inside \(0, 1\), .*or 'auto'"):
        check_config(replace(PLAIN, bn_decay=decay))


@pytest.mark.parametrize(
    ("name", "value"), [("npz_keys", "photos=x_train"), ("tfrecord_keys", "image"), ("csv_columns", "path=a,path=b")]
)
def test_keys_that_are_none_are_refused_with_those_that_are(name, value):
    option = name.replace("_", "-")
    with pytest.raises(
        WrongUse, match=rf"--{option} '?{value}'? is not valid: expected KEY=NAME,KEY=NAME, each key one of"
    ):
        check_config(replace(PLAIN, **{name: value}))


def _given(name):
    """A value of `name` that contradicts other settings."""
    by_kind = {bool: True, str: "x", int: 1, float: 0.5}
    odd = {
        "class_weights": "balanced",
        "sampler": "balanced",
        "head": "keep",
        "distribute": "mirrored",
        "learning_rate": "auto",
        "preset": "gradual",
        "precision": "float16",
    }
    return odd.get(name, by_kind.get(SETTINGS[name].check.kind, "x"))


@pytest.mark.parametrize(("first", "second", "why"), CONTRADICTIONS)
def test_contradictions(first, second, why):
    one, other = ({name: _given(name)} for name in (first, second))
    check_config(replace(PLAIN, **one))
    check_config(replace(PLAIN, **other))
    with pytest.raises(WrongUse) as refused:
        check_config(replace(PLAIN, **one, **other))
    assert f"{'--' + first.replace('_', '-')}" in str(refused.value)
    assert f"and --{second.replace('_', '-')}" in str(refused.value)
    assert f"contradict each other{why and ', '}{why}: give one of them" in str(refused.value)


def test_one_value_alone_contradicts():
    check_config(replace(PLAIN, distribute="mirrored", learning_rate=0.1, preset="fine-tune"))


@dataclass(frozen=True)
class Few:
    first: int = setting(1, whole(1), section="A")
    """One
    sentence."""
    second: bool = setting(False)
    third: int = setting(0, whole(0), section="B")


def test_a_section_lasts_until_the_next():
    found = declared_settings(Few)
    assert [(one.section, one.help, one.check.kind) for one in found.values()] == [
        ("A", "One sentence.", int),
        ("A", "", bool),
        ("B", "", int),
    ]


def test_without_sources_there_is_no_help():
    scope = {"__name__": __name__, "dataclass": dataclass, "setting": setting}
    exec("@dataclass\nclass Hidden:\n    first: bool = setting(False)\n    'Words.'\n", scope)
    assert declared_settings(scope["Hidden"])["first"].help == ""


def test_the_table_in_the_docs_is_up_to_date():
    page = settings_table.PAGE.read_text(encoding="utf-8")
    assert settings_table.with_table(page) == page, "'make docs' writes the table of settings in docs/settings.md"
