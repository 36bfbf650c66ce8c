"""Whole Keras models on disk, `.keras` or `.h5`, opened without running any code in them."""

import errno
import os
import re
import resource
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np

from checkpoints.atomic import replacing
from checkpoints.formats import keras_zip
from checkpoints.formats.hdf5 import Hdf5
from checkpoints.formats.location import HDF5_MAGIC, starts_with
from finetune.backbone.hub.module_layer import trusting
from finetune.batchnorm.surgery import to_stock
from finetune.errors import FinetuneError

SUFFIXES = (".keras", ".h5", ".hdf5")


def open_model(path: Path, *, module: str | None = None) -> keras.Model:
    """A whole model from a `.keras` file or an `.h5` one, in safe mode: no code in it is run.

    `module` is the Hub handle that may be in it, because the user named it; any other is refused.
    Raises FinetuneError where it is missing, damaged, weights only, or holds Python code or custom classes;
    CheckpointError where it is a bomb, or the libraries that read it hang or crash over it.
    """
    if not path.is_file():
        raise FinetuneError(f"there is no file {path}: expected a Keras model, .keras or .h5; check the name")
    zipped = zipfile.is_zipfile(path)
    if path.suffix not in SUFFIXES or not (zipped or starts_with(path, HDF5_MAGIC)):
        raise FinetuneError(
            f"{path} is cut off, or no Keras model at all: expected a whole model, .keras or .h5, as model.save writes "
            "it; copy it again"
        )
    if zipped != (path.suffix == ".keras"):  # Keras tells the two apart by the name alone
        raise FinetuneError(
            f"{path} is {'a .keras archive' if zipped else 'an HDF5 file'} by its content: rename it to end in "
            f"{'.keras' if zipped else '.h5'}"
        )
    if zipped:
        keras_zip.require_harmless(path)
    else:
        Hdf5(path).require_harmless()
    try:
        with trusting(module) as failures:
            return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parts raise: zip, HDF5, JSON, ValueError
        if failures:
            raise FinetuneError(f"{path}: {failures[0]}") from None
        raise FinetuneError(_message(path, str(error).strip())) from None


def _message(path: Path, reason: str) -> str:
    if "unsafe" in reason or "arbitrary code" in reason:
        return (
            f"refused: {path} holds Python code (a Lambda layer) that would run when it is loaded; expected stock "
            "layers only, as 'finetune run' writes. Put a stock layer in its place (keras.layers.Rescaling, "
            "keras.layers.Activation, ...) and save the model again"
        )
    unknown = re.search(r"(?:Could not locate (?:class|function)|Unknown (?:layer|object):?) '([^']+)'", reason)
    if unknown:
        return (
            f"refused: {path} needs the class '{unknown[1]}', which is not part of Keras: no code is loaded from a "
            "model file. Rebuild the model of stock Keras layers, set its weights, and save that"
        )
    if "No model config found" in reason:
        return (
            f"{path} holds weights without a model: expected a whole model, as model.save writes it. Weights of a "
            "network in the catalogue are given as --backbone NAME --checkpoint PATH"
        )
    return f"{path} cannot be loaded as a Keras model ({reason.partition(chr(10))[0][:300]}): copy it again"


def save_stock(model: keras.Model, path: Path) -> None:
    """Write `model` with stock layers only, atomically. OSError where the disk is full."""
    write_model(to_stock(model), path)


def write_model(stock: keras.Model, path: Path) -> None:
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
