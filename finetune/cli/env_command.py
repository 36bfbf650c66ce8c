"""The command `finetune env`."""

import os
import platform
from itertools import takewhile
from typing import Any

import click

from finetune._version import PACKAGE, __version__
from finetune.cli.shared_options import JSON, printed_json
from finetune.cli.startup import load_tensorflow

_PACKAGES = ("tensorflow", "keras", "tf-keras", "tf-slim", "numpy", "h5py", "pillow", "protobuf")


@click.command()
@JSON
def env() -> None:
    """Print versions, devices, caches and extras: what a report of a defect needs."""
    load_tensorflow()
    import tensorflow as tf

    from checkpoints.cache.records import cache_dir
    from finetune.process import cores
    from finetune.training.feature_cache import feature_store

    found: dict[str, Any] = {
        "finetune": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": cores(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": [f"{one.device_type} {one.name.rpartition(':')[2]}" for one in tf.config.list_physical_devices()],
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0",
        "caches": {"weights": str(cache_dir()), "features": str(feature_store.cache_folder())},
        "variables": {name: value for name, value in sorted(os.environ.items()) if name.startswith("FINETUNE_")},
        "extras": _extras(),
    }
    if printed_json(found):
        return
    for name, value in found.items():
        if isinstance(value, dict):
            rows = [f"{key} {one or 'not installed'}" for key, one in value.items()] or ["none"]
        else:
            rows = [str(one) for one in value] if isinstance(value, list) else [str(value)]
        for place, row in enumerate(rows):
            click.echo(f"{'' if place else name:12} {row}")


def _version(name: str) -> str | None:
    """The version of an installed distribution, None where it is not installed."""
    from importlib import metadata  # here and below: no other command needs it, and it takes 30 ms

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> dict[str, str]:
    """Each extra of this package, and whether all that it needs is installed."""
    from importlib import metadata

    try:
        own = metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError:  # it runs from a checkout that is not installed
        return {}
    needed: dict[str, list[str]] = {name: [] for name in own.get_all("Provides-Extra") or []}
    for line in metadata.requires(PACKAGE) or []:
        requirement, _, marker = line.partition(";")
        for name in needed:
            if f'extra == "{name}"' in marker or f"extra == '{name}'" in marker:
                needed[name].append("".join(takewhile(lambda one: one.isalnum() or one in "-_.", requirement.strip())))
    return {
        name: "installed" if all(_version(one) for one in wanted) else "not installed"
        for name, wanted in needed.items()
        if name != "dev"
    }
