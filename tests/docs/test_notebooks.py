"""The notebooks of examples/ run, and what they show is what a run printed."""

import ast
import re

import nbformat
import numpy as np
import pytest

import finetune
from tests.docs.test_python_names import missing
from tools.notebooks import FOLDER, output, run

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def codes(file):
    """The code cells, and their Python without shell commands."""
    cells = [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    return cells, "\n".join(line for cell in cells for line in cell.source.splitlines() if not line.startswith("!"))


def test_there_are_three():
    assert [file.stem for file in NOTEBOOKS] == ["diagnose_fit", "repair_tf1_graph", "transfer_slim"]


@each
def test_every_name_is_there(file):
    _, code = codes(file)
    used = re.findall(r"\bfinetune\.([a-zA-Z]\w*)", "\n".join(ast.unparse(ast.parse(code)).splitlines()))
    assert not missing(code)
    assert {name for name in used if name != "data"} <= set(finetune.__all__)


@each
def test_the_output_is_of_a_whole_run_and_shows_no_machine(file):
    cells, _ = codes(file)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run 'make notebooks'"
    printed = output(nbformat.read(file, as_version=4))
    assert len(printed) > 200
    assert not re.findall(r"(?<![\w.])/(?:\w[\w.-]*/)+|Warning|Traceback|\x1b", printed)
    assert file.stat().st_size < 100_000


def test_the_images_of_the_first_notebook():
    cells, _ = codes(FOLDER / "diagnose_fit.ipynb")
    names = {}
    exec(cells[0].source, names)
    (images, labels), _ = names["train"], names["test"]
    assert images.shape == (1_000, 16, 16, 1)
    assert images.dtype == np.float32
    assert set(labels) == {0, 1, 2, 3}


@pytest.mark.slow
@each
def test_it_runs(file, tmp_path):
    """Each asserts its own cause and accuracy in a cell. The committed output has the same form."""
    done = run(file, folder=tmp_path)
    kept = nbformat.read(file, as_version=4)
    assert [len(cell.get("outputs", ())) for cell in done.cells] == [
        len(cell.get("outputs", ())) for cell in kept.cells
    ]
