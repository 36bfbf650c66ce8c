"""The tables of pages hold what they say: every argument of slim has its line, every recipe freezes what it says."""

import ast
import importlib.util
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from checkpoints.catalog.lookup import find_row
from finetune.backbone import networks
from finetune.backbone.freezing import HEAD, layer_infos, parse_freeze_rule, resolve
from finetune.backbone.networks.network import layers_by_stage
from finetune.batchnorm.policy import parse_bn_rule
from finetune.batchnorm.surgery import adopt
from finetune.diagnosis import thresholds
from finetune.diagnosis.rules.neighbours import NEIGHBOURS
from tests.support.places import ROOT

DOCS = ROOT / "docs"
SLIM = {
    "slim.batch_norm": ("layers/layers.py", "batch_norm"),
    "resnet_arg_scope": ("nets/resnet_utils.py", "resnet_arg_scope"),
    "create_train_op": ("learning.py", "create_train_op"),
}


@pytest.mark.parametrize("section", SLIM)
def test_every_argument_of_slim_has_its_line(section):
    file, function = SLIM[section]
    folder = Path(importlib.util.find_spec("tf_slim").submodule_search_locations[0])
    tree = ast.parse((folder / file).read_text())
    found = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    arguments = [argument.arg for argument in found.args.args]
    part = next(one for one in (DOCS / "slim-migration.md").read_text().split("\n## ") if section in one.split("\n")[0])
    assert re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) == arguments


def _infos():
    spec = find_row("resnet_v1_50")
    network = networks.build(spec.family, image_size=32, outputs=1000, arguments=dict(spec.arguments))
    return layer_infos(adopt(network.model, unbiased=True), layers_by_stage(network), network.scope)


@pytest.mark.slow
def test_every_freezing_recipe_freezes_what_it_says():
    infos = _infos()
    rows = re.findall(
        r"^\| `(--[^`]+)` \| [^|]*\((\d+)\) \| ([^|]+) \|$", (DOCS / "freezing.md").read_text(), re.MULTILINE
    )
    assert len(rows) >= 12
    for recipe, convolutions, policies in rows:
        words = shlex.split(recipe)
        given = list(zip(words[::2], words[1::2], strict=True))
        plan = resolve(
            infos,
            freeze=[parse_freeze_rule(value) for option, value in given if option == "--freeze"],
            freeze_until=next((value for option, value in given if option == "--freeze-until"), None),
            bn=[parse_bn_rule(value) for option, value in given if option == "--bn"],
        )
        backbone = [one for one in plan.layers if one.layer.stage != HEAD]
        assert sum(one.trains for one in backbone if one.bn is None) == int(convolutions), recipe
        found = Counter(one.bn.name for one in backbone if one.bn is not None)
        assert found == {name: int(count) for name, count in re.findall(r"`(\w+)` (\d+)", policies)}, recipe


def test_the_table_of_causes_has_the_thresholds_of_the_verdict():
    text = (DOCS / "diagnosis.md").read_text()
    table = text.partition("## How a cause is recognised")[2].partition("## The runner-up")[0]
    causes = dict(re.findall(r"^\| `([\w: -]+)` \| ([^|]+) \|", table, re.MULTILINE))
    assert len(causes) == 20, "seventeen causes, undetermined, by design and healthy"
    assert causes.keys() == NEIGHBOURS.keys() | {"updates-never-ran", "undetermined"}
    assert f"end below {thresholds.MARGIN * 100:.0f} points" in text
    assert f"more than {thresholds.INFORMATIVE:.0%} of them wrong".replace("%", " %") in text
    assert f"{thresholds.NOISE_TOGETHER:.0f} standard errors is a gap too" in text
    for cause, words in {
        "wrong-preprocessing": f"{thresholds.REPAIRED:.0%}",
        "not-batchnorm: labels": f"loss is over {thresholds.CONFIDENT} times what guessing",
        "different-data": f"over {thresholds.FAR_SIGMAS} sigmas and {thresholds.FAR_DATA:.0f} standard errors",
        "batch-composition": f"{thresholds.REPAIRED:.0%}",
        "averaged-weights-raw-statistics": f"{thresholds.AHEAD:.0%}",
        "statistics-noisy": f"{thresholds.NOISE_RATIO} times",
        "not-batchnorm: undertrained": f"over {thresholds.UNDERTRAINED:.0%} of log(classes)",
        "not-batchnorm: overfitting": f"{thresholds.OVERFITTED * 100:.0f} points",
    }.items():
        assert words.replace("%", " %") in causes[cause], cause
    lag = re.findall(r"^\| `statistics-lag` \| ([^|]+) \|", text, re.MULTILINE)[0]
    assert f"over {thresholds.FORGOTTEN:.0%}".replace("%", " %") in lag
    assert f"over {thresholds.FITTED:.0%}".replace("%", " %") in lag
    assert f"by more than {thresholds.LEAST_GAP * 100:.0f} points" in text
    assert f"more than {thresholds.NOISE:.0f} standard errors" in text
    assert f"under {thresholds.GOOD_ON_TRAINING:.0%}".replace("%", " %") in text


def test_the_runners_up_are_those_of_the_verdict():
    text = (DOCS / "diagnosis.md").read_text()
    table = text.partition("## The runner-up")[2].partition("## The JSON report")[0]
    rows = re.findall(r"^\| (`[^|]+`) \| `([^`]+)` \|", table, re.MULTILINE)
    found = {(cause, other) for causes, other in rows for cause in re.findall(r"`([^`]+)`", causes)}
    both = {("updates-never-ran", "partially-restored"), ("updates-never-ran", "wrong-preprocessing")}
    both |= {(f"statistics-{cause}", "wrong-preprocessing") for cause in ("lag", "noisy", "not-saved")}
    assert found == {(cause, other) for cause, (other, _) in NEIGHBOURS.items()} | both
