"""Writes what is wrong in every way: checkpoints, data sets, and runs whose model is another's."""

import os
import pickle
import shutil

import keras
import numpy as np

from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import write_slim
from tests.support.places import ROOT

DEMO = ROOT / "checkpoints" / "bundled" / "resnet_v1_demo.ckpt"
PIXELS = 3 * 32 * 32
FIRST_UNIT = "resnet_v1_demo/block1/unit_1/bottleneck_v1"


class Evil:
    """Unpickled by anything but a careful reader, it makes a directory."""

    def __reduce__(self):
        return os.mkdir, ("PWNED",)


def write_cifar(folder, labels, first_batch=None):
    """A folder of CIFAR-10 with these training labels, or with these bytes for its first batch."""
    inner = folder / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    for name, of in (("data_batch_1", labels), ("test_batch", list(range(10)))):
        content = {b"data": np.zeros((len(of), PIXELS), np.uint8), b"labels": of}
        (inner / name).write_bytes(pickle.dumps(content, 2))
    if first_batch is not None:
        (inner / "data_batch_1").write_bytes(first_batch((inner / "data_batch_1").read_bytes()))


def write_checkpoints(folder):
    folder.mkdir()
    opened = open_checkpoint(DEMO)
    arrays = {name: opened.read(name) for name in opened.shapes}
    weights = f"{FIRST_UNIT}/conv1/weights"
    write_slim(folder / "other", {name.replace("block1", "stage1"): array for name, array in arrays.items()})
    write_slim(folder / "shape", {**arrays, weights: arrays[weights][..., :3]})
    write_slim(folder / "nan", {**arrays, weights: arrays[weights] * np.nan})
    for name, ending, kept in (("cut", "data-00000-of-00001", 100_000), ("cut-index", "index", 300)):
        for part in ("index", "data-00000-of-00001"):
            shutil.copy(f"{DEMO}.{part}", folder / f"{name}.{part}")
        os.truncate(folder / f"{name}.{ending}", kept)
    (folder / "text.h5").write_text("not HDF5")


def write_strangers(folder, run):
    """Copies of a run whose model is another's."""
    folder.mkdir()
    images = keras.Input((16, 16, 3))
    features = keras.layers.GlobalAveragePooling2D()(images)
    small = keras.Input((8, 8, 3))
    strangers = {
        "lambda": keras.Model(images, keras.layers.Dense(10)(keras.layers.Lambda(lambda x: x * 2)(features))),
        "classes": keras.Model(images, keras.layers.Dense(3)(features)),
        "two": keras.Model(images, [keras.layers.Dense(10)(features), features]),
        "size": keras.Model(small, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(small))),
        "plain": keras.Model(images, keras.layers.Dense(10)(features)),
    }
    for name, model in strangers.items():
        shutil.copytree(run, folder / name)
        model.save(folder / name / "model.keras")
