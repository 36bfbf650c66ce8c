"""TF1 graphs, trained and saved by TensorFlow in a process of its own, with what their own session says of them."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from finetune.data.dataset import Split
from finetune.data.sources.cifar import read_cifar
from finetune.data.sources.generated import demo_target
from tests.support.places import ROOT, SHARED

CIFAR = SHARED / "data"
BATCH, TESTED = 100, 250


@dataclass(frozen=True)
class Written:
    """`meta` of a graph; `false` and `true` are its own session's logits of the test images; the data."""

    meta: Path
    false: np.ndarray
    true: np.ndarray
    train: Split
    test: Split


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A function from a kind of `tf1_writer` to what was written; each is written when first asked for."""
    directory = tmp_path_factory.mktemp("tf1")
    dataset = read_cifar("cifar10", CIFAR) if (CIFAR / "cifar-10-batches-py").is_dir() else demo_target()
    train = Split(dataset.train.images[:2000], dataset.train.labels[:2000])
    test = Split(dataset.test.images[:TESTED], dataset.test.labels[:TESTED])
    np.savez(
        directory / "data.npz",
        train_images=train.images,
        train_labels=train.labels,
        test_images=test.images,
        batch_size=BATCH,
    )

    def write(*kinds):
        missing = [kind for kind in kinds if not (directory / kind).exists()]
        if missing:
            script = ROOT / "tests" / "support" / "tf1_writer.py"
            environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
            command = [sys.executable, str(script), str(directory), *missing]
            ran = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert ran.returncode == 0, ran.stderr[-3000:]
        found = []
        for kind in kinds:
            truth = np.load(directory / kind / "truth.npz")
            meta = directory / kind / "model.ckpt-100.meta"
            found.append(Written(meta, truth["false"], truth["true"], train, test))
        return found if len(kinds) > 1 else found[0]

    return write
