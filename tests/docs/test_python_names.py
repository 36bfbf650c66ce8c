"""Every name of this package that a page, an example or a benchmark imports is there."""

import ast
import importlib
import re

import pytest

from tests.docs.doc_pages import PAGES, blocks
from tests.support.places import ROOT

SCRIPTS = (*sorted((ROOT / "examples").glob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py")))
WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


def missing(text):
    """The imports of finetune and checkpoints in a program that would fail."""
    found = []
    for node in ast.walk(ast.parse(text)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        found += [name for name in modules if re.match(r"(finetune|checkpoints)\b", name) and not is_there(name)]
    return found


def is_there(name):
    """Whether the dotted name is a module or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        try:
            return hasattr(importlib.import_module(module), attribute)
        except ImportError:
            return False
    return True


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.relative_to(ROOT)))
def test_imports_of_scripts(script):
    assert not missing(script.read_text())


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_names_of_pages(page):
    text = page.read_text()
    named = re.findall(r"`((?:finetune|checkpoints)(?:\.[a-z_0-9]+)+(?:\.[A-Z]\w+)?)`", text)
    programs = "\n".join(block.text for block in blocks(page) if block.language == "python" and "..." not in block.text)
    assert not [name for name in named if not is_there(name)] + missing(programs)


def test_a_wrong_name_would_be_found():
    text = "from finetune.text import printable, nosuch\nimport checkpoints.nosuch\nfrom finetune.nosuch import a\n"
    assert missing(text) == ["finetune.text.nosuch", "checkpoints.nosuch", "finetune.nosuch.a"]
