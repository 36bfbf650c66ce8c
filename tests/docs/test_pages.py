"""The tables of pages hold what they say: every argument of slim has its line, every recipe freezes what it says."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
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
