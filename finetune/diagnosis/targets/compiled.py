"""What a Keras model file says of how it was compiled and trained: its loss, its optimizer and the steps it took."""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from checkpoints.formats.keras_zip import ZIP_ERRORS

_STEPS = re.compile(r"iter(?:ations?)?(?:_\d+)?(?::0)?")
"""What versions of Keras 2 call the counter of an optimizer's steps."""


def trained_on_binary(path: Path, output: str | None) -> bool:
    """Whether the loss of the output, or of the only one, is a binary cross-entropy, by what the file says."""
    loss = _compiled(path).get("loss")
    if isinstance(loss, dict) and "class_name" not in loss:  # one for each output
        loss = loss.get(output)
    return not isinstance(loss, list) and "binary" in str(loss).lower()


def training_of(path: Path) -> tuple[int | None, bool | None]:
    """(steps of the optimizer, whether it replaced the weights by their average) of a compiled model.

    None is not known: the file says nothing, or is no HDF5 file and no archive.
    """
    compiled = _compiled(path)
    optimizer = compiled.get("optimizer") or compiled.get("optimizer_config")
    settings = optimizer.get("config") if isinstance(optimizer, dict) else None
    averages = bool(settings["use_ema"]) if isinstance(settings, dict) and "use_ema" in settings else None
    try:
        with _weights(path) as file:
            return _steps(file) or None, averages
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, *ZIP_ERRORS):
        return None, averages


def _steps(file: Any) -> int:
    """The optimizer's steps in its variables; 0 where there are none."""
    kept: Mapping[str, Any] = {"iterations": file["optimizer/vars/0"]} if "optimizer/vars/0" in file else {}
    if "optimizer_weights" in file:  # HDF5 files of Keras 2
        found: dict[str, Any] = {}
        file["optimizer_weights"].visititems(lambda name, one: found.update({name: one}))
        kept = found
    for name, one in kept.items():
        if isinstance(one, h5py.Dataset) and one.shape == () and _STEPS.fullmatch(name.rpartition("/")[2]):
            return int(np.asarray(one[()]))
    return 0


@contextmanager
def _weights(path: Path) -> Iterator[Any]:
    """The HDF5 file of a model's weights, open."""
    if not zipfile.is_zipfile(path):
        with h5py.File(path, "r") as file:
            yield file
        return
    with zipfile.ZipFile(path) as zipped, io.BytesIO(zipped.read("model.weights.h5")) as held, h5py.File(held) as file:
        yield file


def _compiled(path: Path) -> dict[str, Any]:
    """How a model was compiled, as its file says it; nothing where it says nothing."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:
                found = json.loads(zipped.read("config.json")).get("compile_config")
        else:
            with h5py.File(path, "r") as file:
                found = json.loads(file.attrs.get("training_config", "null"))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, *ZIP_ERRORS):
        return {}  # the model itself was read: what is beside it may be anything
    return found if isinstance(found, dict) else {}
