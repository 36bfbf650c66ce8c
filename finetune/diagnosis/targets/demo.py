"""The ill model of `finetune diagnose-bn --demo`: the bundled network as a training leaves it that never runs its
update operations. It is a checkpoint like any other, in the cache, so that its remedy can be run as it is printed."""

from pathlib import Path

import numpy as np

from checkpoints.cache.archive import made_once
from checkpoints.cache.records import cache_dir
from checkpoints.catalog.lookup import find_row
from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import everything, write_slim
from checkpoints.store import locate
from finetune.data.sources.generated import demo_source

NAME = "resnet_v1_demo"
_TRAIN, _TEST = 600, 300


def ill_model() -> tuple[Path, Path]:
    """(checkpoint, images) of the demonstration, made once: its moving statistics are 0 and 1, as a network starts."""

    def fill(folder: Path) -> None:
        folder.mkdir()
        arrays = everything(open_checkpoint(locate(find_row(NAME), with_head=True)))
        for name, value in arrays.items():
            if name.endswith(("/moving_mean", "/moving_variance")):
                arrays[name] = np.full_like(value, name.endswith("variance"))
        write_slim(folder / "model.ckpt", arrays)
        data = demo_source(train=_TRAIN, test=_TEST)
        arrays = {
            f"{kind}_{name}": np.asarray(one)
            for name, split in (("train", data.train), ("test", data.test))
            for kind, one in (("x", split.images), ("y", split.labels))
        }
        np.savez(folder / "images.npz", **arrays)  # type: ignore[arg-type]

    folder = made_once(cache_dir() / "demo-forgotten-updates", fill)
    return folder / "model.ckpt", folder / "images.npz"
