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
from finetune.backbone.networks.stages import layers_by_stage
from finetune.batchnorm.policy import parse_bn_rule
from finetune.batchnorm.surgery import adopt
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
