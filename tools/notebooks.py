"""Run the notebooks of examples/ and keep their output: `make notebooks`."""

import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "examples"


def run(path: Path, *, folder: Path, timeout: int = 600) -> nbformat.NotebookNode:
    """The notebook with its output, run in `folder` by this Python. CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no lines about devices that are not there
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for '!finetune'
    options = {"timeout": timeout, "record_timing": False, "coalesce_streams": True}
    there = {"metadata": {"path": str(folder)}}
    return shown(NotebookClient(notebook, kernel_name="python3", resources=there, **options).execute())


def shown(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without standard error: TensorFlow's lines there tell which devices this machine lacks."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    return notebook


def output(notebook: nbformat.NotebookNode) -> str:
    """All that the cells print."""
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    return "\n".join(one.get("text") or one.get("data", {}).get("text/plain", "") for one in outputs)


if __name__ == "__main__":
    for file in sorted(FOLDER.glob("*.ipynb")):
        done = run(file, folder=FOLDER)
        printed = output(done)
        assert not re.search(r"/\w+/\w+/|Warning", printed), f"{file.name} prints a path or a warning:\n{printed}"
        nbformat.write(done, file)
        print(file.name)
