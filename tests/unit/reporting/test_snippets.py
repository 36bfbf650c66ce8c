import ast

import keras
import pytest
import tensorflow as tf

import finetune
from finetune.diagnosis.rules.neighbours import NEIGHBOURS
from finetune.reporting.snippets import KERAS, SLIM, SNIPPETS, TF1
from tests.support.places import ROOT

ROOTS = {"keras": keras, "tf": tf, "finetune": finetune}
ALL = [(cause, library) for cause, codes in SNIPPETS.items() for library in codes]


def test_every_cause_with_a_remedy_has_its_lines_in_each_library():
    without = {"different-data", "healthy", "inference-mode-by-design", "undetermined"}
    causes = {*NEIGHBOURS, "updates-never-ran"}  # which has two neighbours, by what was seen
    assert causes - without == set(SNIPPETS)
    assert all(set(codes) == {KERAS, TF1, SLIM} for codes in SNIPPETS.values())


@pytest.mark.parametrize(("cause", "library"), ALL)
def test_they_are_python_and_name_what_exists(cause, library):
    for node in ast.walk(ast.parse(SNIPPETS[cause][library])):
        if not isinstance(node, ast.Attribute):
            continue
        names, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            names.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id in ROOTS:
            found = ROOTS[inner.id]
            for name in reversed(names):
                if name == "batch_normalization" and "layers" in names:
                    break  # tf.compat.v1.layers is there with TF_USE_LEGACY_KERAS alone
                found = getattr(found, name)


def test_the_page_has_them_all():
    page = (ROOT / "docs/own-training.md").read_text()
    for cause, codes in SNIPPETS.items():
        _, _, rest = page.partition(f"## `{cause}`\n")
        section = rest.partition("\n## ")[0]
        for library, code in codes.items():
            assert f"{library}:\n\n```text\n{code}\n```" in section, (cause, library)
