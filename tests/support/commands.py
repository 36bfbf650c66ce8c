"""Commands called as a user types them, and what they leave."""

import shlex
from pathlib import Path

from click.testing import CliRunner, Result

from finetune.cli import main

SMALL = (
    "--backbone resnet_v1_demo --data demo-target --examples 100 --epochs 3 --image-size 16 --batch-size 20 "
    "--learning-rate 0.003"
)


def typed(line: str) -> Result:
    """What `finetune LINE` does, in this process; SMALL in it stands for the settings of a tiny run."""
    return CliRunner().invoke(main, shlex.split(line.replace("SMALL", SMALL)), prog_name="finetune")


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and directory below `folder`, with size and time of modification of the files, except of locks: they
    note who held them last."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        if path.is_file() and path.name != ".lock"
        else (0, 0)
        for path in folder.rglob("*")
    }
