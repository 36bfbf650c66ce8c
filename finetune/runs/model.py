"""Models on disk: saved as stock Keras, opened under our BatchNorm together with the data they are for."""

import errno
import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune import backbone as backbones
from finetune.batchnorm.subject import Snapshot
from finetune.batchnorm.surgery import adopt, to_stock
from finetune.config import checking as configs
from finetune.config.checking import RunConfig
from finetune.data.dataset import Split, stratified_subset
from finetune.errors import FinetuneError, WrongUse
from finetune.files import read_arrays, replacing, write_arrays
from finetune.runs.directory import RunDir

_SNAPSHOT = "bn_source.npz"


@dataclass(frozen=True)
class Trained:
    """A model of a run, adopted, with the run's config. `path` is the model's file."""

    run: RunDir
    config: RunConfig
    model: keras.Model
    path: Path


def save(model: keras.Model, path: Path) -> None:
    """Write `model` with stock layers only, atomically. OSError where the disk is full."""
    write(to_stock(model), path)


def write(stock: keras.Model, path: Path) -> None:
    """Write a model of stock layers atomically: its weights to `.weights.h5`, all of it to `.keras`. OSError."""
    size = sum(int(np.prod(variable.shape)) * 4 for variable in stock.variables)
    # HDF5 writes `.weights.h5`, and where memory is short `.keras`; refused by the system, it crashes the process.
    if shutil.disk_usage(path.absolute().parent).free < size + 2**20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < size + 2**20:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    with replacing(path) as temporary:
        stock.save_weights(temporary) if path.name.endswith(".weights.h5") else stock.save(temporary)


def find_trained(target: Path) -> tuple[RunDir, RunConfig, Path]:
    """(run, its config, file) of a run directory's `model.keras`, or of another `.keras` file in a run directory.

    Raises FinetuneError where there is none.
    """
    path = target / "model.keras" if target.is_dir() else target
    if path.suffix != ".keras" or not (path.parent / "config.json").is_file():
        raise FinetuneError(
            f"{target} is no run: expected a directory with config.json in it, as 'finetune run' writes, or a .keras "
            f"file in one{'' if target.exists() else '; there is nothing of that name'}"
        )
    run = RunDir.open(path.parent)
    where = run.path / "config.json"
    config = configs.from_mapping(configs.read_file(where), where=str(where))
    if not path.is_file():
        advice = f"the run is {run.status}; continue it with: {run.resume_command}"
        if run.status == "done" or path != run.model_path:
            advice = f"give another .keras file in {run}, or repeat the run with 'finetune run --config'"
        raise FinetuneError(f"{path} is missing: {advice}")
    return run, config, path


def open_trained(target: Path) -> Trained:
    """The model that `find_trained` finds.

    Raises FinetuneError where there is none, it cannot be loaded, or does not take what the run is configured for.
    """
    run, config, path = find_trained(target)
    where = run.path / "config.json"
    model = adopt(_load(path, backbones.module_handle(config.backbone)), unbiased=backbones.unbiased(config.backbone))
    if config.image_size and model.input_shape != (None, config.image_size, config.image_size, 3):
        raise FinetuneError(
            f"{path} takes {list(model.input_shape)}, expected images of {config.image_size} px as {where} says: it is "
            "another run's model; put it beside its own config.json"
        )
    return Trained(run, config, model, path)


def _load(path: Path, module: str | None) -> keras.Model:
    """A `.keras` file that classifies images, in safe mode; `module` is the Hub handle that may be in it."""
    model = backbones.open_model(path, module=module)
    try:
        fits = [len(model.input_shape), len(model.output_shape)] == [4, 2] and isinstance(model.output_shape, tuple)
    except AttributeError:  # a model of its own class, not a graph
        fits = False
    if not fits:
        raise FinetuneError(f"{path} is no image classifier: expected one input of images and one output of logits")
    return model


def training_subset(split: Split, config: RunConfig, images: int) -> Split:
    """At most `images` of the training images, stratified, in random order, in whole batches where there is one.

    Random order, because batches of one class have no statistics worth pooling; whole batches, because an image
    that fills up a ragged batch would count twice in them.
    """
    classes = len(np.unique(split.labels))
    if images < classes:
        raise WrongUse(f"--images {images} is fewer than the {classes} classes: give {classes} or more")
    subset = stratified_subset(split, images, config.seed) if images < len(split) else split
    batch_size = config.batch_size or len(subset)
    whole = len(subset) - len(subset) % batch_size or len(subset)
    return subset.take(np.random.default_rng(config.seed).permutation(len(subset))[:whole])


def save_snapshot(run: RunDir, snapshot: Snapshot) -> None:
    """Keep the moving statistics a run starts from: a diagnosis tells by them whether they ever moved."""
    arrays: dict[str, Any] = {
        f"{name}:{kind}": pair[i] for name, pair in snapshot.items() for i, kind in enumerate(("mean", "var"))
    }
    write_arrays(run.path / _SNAPSHOT, arrays)


def load_snapshot(run: RunDir) -> Snapshot | None:
    """What `save_snapshot` kept, or None where the run has none. FinetuneError where the file is damaged."""
    path = run.path / _SNAPSHOT
    advice = "delete it, and the diagnosis does without"
    try:
        arrays = read_arrays(path, advice=advice)
        names = {key.rpartition(":")[0] for key in arrays}
        return {name: (arrays[f"{name}:mean"], arrays[f"{name}:var"]) for name in names}
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise FinetuneError(f"{path} is damaged (it has no {error}): {advice}") from None
