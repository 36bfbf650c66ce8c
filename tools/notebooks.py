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
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    return client.execute()


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
