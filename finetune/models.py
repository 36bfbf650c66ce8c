"""Models on disk: saved as stock Keras, opened under our BatchNorm together with the data they are for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from checkpoints import catalog
from finetune import config as configs
from finetune.batchnorm.statistics import Snapshot
from finetune.batchnorm.surgery import adopt, to_stock
from finetune.config import RunConfig
from finetune.data.dataset import Dataset, Split, stratified_subset
from finetune.data.sources import load_dataset
from finetune.errors import FinetuneError
from finetune.rundir import RunDir, replacing

_SNAPSHOT = "bn_source.npz"


@dataclass(frozen=True)
class Trained:
    """A model of a run, adopted, with the run's config. `path` is the model's file."""

    run: RunDir
    config: RunConfig
    model: keras.Model
    path: Path


def save(model: keras.Model, path: Path) -> None:
    """Write `model` with stock layers only, atomically."""
    with replacing(path) as temporary:
        to_stock(model).save(temporary)


def open_trained(target: Path) -> Trained:
    """A run directory's `model.keras`, or another `.keras` file in a run directory.

    Raises FinetuneError where the run has no model yet or the file cannot be loaded.
    """
    path = target / "model.keras" if target.is_dir() else target
    run = RunDir.open(path.parent if target.suffix == ".keras" or target.is_dir() else target)
    config = configs.from_mapping(run.read("config.json"), where=str(run.path / "config.json"))
    if not path.is_file():
        raise FinetuneError(
            f"{path} is missing: the run is {run.status}; continue it with 'finetune run --resume {run}'"
        )
    try:
        stock = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parts raise: zip, HDF5, JSON, ValueError
        raise FinetuneError(f"{path} cannot be loaded as a Keras model ({str(error).splitlines()[0]})") from None
    unbiased = catalog.find(config.backbone).source != "keras"
    return Trained(run, config, adopt(stock, unbiased=unbiased), path)


def load_data(config: RunConfig, *, progress: Any = None) -> Dataset:
    """The data a run is configured for; the same seed gives the same split."""
    return load_dataset(
        config.data,
        data_dir=Path(config.data_dir) if config.data_dir else None,
        examples=config.examples,
        validation=config.validation,
        seed=config.seed,
        progress=progress,
    )


def training_subset(split: Split, config: RunConfig, images: int) -> Split:
    """At most `images` of the training images, stratified, in random order, in whole batches where there is one.

    Random order, because batches of one class have no statistics worth pooling; whole batches, because an image
    that fills up a ragged batch would count twice in them.
    """
    subset = stratified_subset(split, min(images, len(split)), config.seed) if images < len(split) else split
    batch_size = config.batch_size or len(subset)
    whole = len(subset) - len(subset) % batch_size or len(subset)
    return subset.take(np.random.default_rng(config.seed).permutation(len(subset))[:whole])


def save_snapshot(run: RunDir, snapshot: Snapshot) -> None:
    """Keep the moving statistics a run starts from: a diagnosis tells by them whether they ever moved."""
    arrays: dict[str, Any] = {
        f"{name}:{kind}": pair[i] for name, pair in snapshot.items() for i, kind in enumerate(("mean", "var"))
    }
    with replacing(run.path / _SNAPSHOT) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_snapshot(run: RunDir) -> Snapshot | None:
    """What `save_snapshot` kept, or None where the run has none."""
    try:
        with np.load(run.path / _SNAPSHOT, allow_pickle=False) as file:
            names = {key.rpartition(":")[0] for key in file.files}
            return {name: (file[f"{name}:mean"], file[f"{name}:var"]) for name in names}
    except FileNotFoundError:
        return None
