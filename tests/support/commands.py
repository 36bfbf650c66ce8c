"""Commands called as a user types them, and what they leave."""

import atexit
import os
import shlex
import shutil
import signal
import tempfile
from functools import cache
from pathlib import Path

import keras
import pytest
from click.testing import CliRunner, Result

from finetune.cli import main
from finetune.cli.display_training import ConsoleDisplay

_SETTINGS = "--data demo-target --examples 100 --epochs 3 --image-size 16 --batch-size 20 --learning-rate 0.003"
SMALL = f"--backbone resnet_v1_demo {_SETTINGS}"
"""A run of the bundled network: 22 BatchNorm layers, eight seconds, most of them for TensorFlow's tracing."""


@cache
def tiny_backbone() -> Path:
    """A `.keras` file of two convolutions, each with a BatchNorm, for images of 16 px: a run of it takes two seconds.

    Layers: conv1, bn1, relu1, conv2, bn2, relu2. The weights are random, the moving statistics are 0 and 1.
    """
    folder = Path(tempfile.mkdtemp(prefix="tiny-backbone-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    layers = keras.layers
    x = images = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, -1)(x)
    for number, filters in ((1, 8), (2, 12)):
        seed = keras.initializers.HeNormal(seed=number)
        x = layers.Conv2D(
            filters, 3, strides=2, use_bias=False, kernel_initializer=seed, padding="same", name=f"conv{number}"
        )(x)
        x = layers.ReLU(name=f"relu{number}")(layers.BatchNormalization(name=f"bn{number}")(x))
    keras.Model(images, layers.GlobalAveragePooling2D()(x)).save(folder / "tiny.keras")
    return folder / "tiny.keras"


def typed(line: str) -> Result:
    """What `finetune LINE` does, in this process.

    SMALL and TINY in it stand for the settings of a small run, of the bundled network and of `tiny_backbone`;
    TINY_FILE for the path of the latter.
    """
    return CliRunner().invoke(main, shlex.split(in_full(line)), prog_name="finetune")


def in_full(line: str) -> str:
    """`line` with the settings that SMALL, TINY and TINY_FILE stand for."""
    if "TINY" in line:
        line = line.replace("TINY_FILE", str(tiny_backbone())).replace(
            "TINY", f"--backbone {tiny_backbone()} {_SETTINGS}"
        )
    return line.replace("SMALL", SMALL)


def stop_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at this step of every run, as long as `patch` holds."""
    seen = ConsoleDisplay.step

    def stopping(self: ConsoleDisplay, **values: float) -> None:
        seen(self, **values)
        if values["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    patch.setattr(ConsoleDisplay, "step", stopping)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and directory below `folder`, with size and time of modification of the files, except of locks: they
    note who held them last."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        if path.is_file() and path.name != ".lock"
        else (0, 0)
        for path in folder.rglob("*")
    }
