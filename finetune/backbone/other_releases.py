"""Model files of other releases of Keras 3, without settings that this one does not know and that change nothing."""

import inspect
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

_AUGMENTATION = ("AugMix", "CutMix", "MixUp")
"""Layers that pass images through outside of training, beside those whose names begin with Rand."""


def without_unknown(path: Path, out: Path) -> bool:
    """Write `path`, a harmless `.keras` or `.h5` file of Keras 3, to `out` without settings that this Keras lacks.

    Such a setting is left out where its layer augments images, or where it is None or False. Returns whether there was
    one, else nothing is written. Raises what reading a damaged file raises.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            if not _edit(config):
                return False
            with zipfile.ZipFile(out, "w") as copy:
                for one in archive.infolist():
                    content = json.dumps(config).encode() if one.filename == "config.json" else archive.read(one)
                    copy.writestr(one.filename, content)
        return True
    with h5py.File(path, "r") as file:
        config = json.loads(file.attrs["model_config"])
    if not _edit(config):
        return False
    shutil.copyfile(path, out)
    with h5py.File(out, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)
    return True


def _edit(config: Any) -> bool:
    """Take what is unknown out of the layers of a model's config; whether there was any."""
    unknown = [(settings, key) for name, settings in _layers(config) for key in _unknown(name, settings)]
    for settings, key in unknown:
        del settings[key]
    return bool(unknown)


def _layers(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(class, settings) of every layer of Keras in a model's config."""
    if isinstance(config, list):
        for one in config:
            yield from _layers(one)
    elif isinstance(config, dict):
        name, settings = config.get("class_name"), config.get("config")
        if isinstance(name, str) and isinstance(settings, dict):
            yield name, settings
        for one in config.values():
            yield from _layers(one)


def _unknown(name: str, settings: dict[str, Any]) -> list[str]:
    """The settings of a layer that its class does not have here, and that change nothing."""
    kind = getattr(keras.layers, name, None)
    if not inspect.isclass(kind) or issubclass(kind, keras.Model):
        return []
    known = {parameter for one in kind.__mro__[:-1] for parameter in inspect.signature(one).parameters}
    unknown = [key for key in settings if key not in known]
    augments = name.startswith("Rand") or name in _AUGMENTATION
    return [key for key in unknown if augments or settings[key] is None or settings[key] is False]
