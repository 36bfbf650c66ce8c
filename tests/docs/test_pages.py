"""What the pages say is done: the quickstart's commands and the Python examples run, the slim table is complete."""

import ast
import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_commands_in_docs import commands

from finetune.cli import main

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


def test_the_quickstart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codes = {}
    for words in commands(DOCS / "quickstart.md"):
        if words[0] == "demo":
            continue  # tests/test_demo.py
        shorter = ["--examples", "300"] if words[0] == "run" else []
        outcome = CliRunner().invoke(main, [*words, *shorter])
        codes[shlex.join(words)] = outcome.exit_code
        assert outcome.exit_code == (3 if words[0] == "diagnose-bn" else 0), outcome.output
        if words[0] == "diagnose-bn":
            assert "updates-never-ran-since-source" in outcome.output
    assert len(codes) == 7
    assert {"model.keras", "model.tflite"} <= {path.name for path in (tmp_path / "exported").iterdir()}


def test_the_python_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    printed = io.StringIO()
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "python-api.md").read_text(), re.MULTILINE | re.DOTALL)
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(compile(block, "python-api.md", "exec"), names)
    assert len(printed.getvalue().splitlines()) == 5
