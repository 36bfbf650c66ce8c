"""`environment.json`: versions, processors and devices of a run."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from finetune.process import cores

_PACKAGES = ("finetune-backbones", "tensorflow", "keras", "numpy", "tensorflow-hub", "pillow")


def describe() -> dict[str, Any]:
    """For `environment.json`. Imports TensorFlow to name its devices."""
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cores": cores(),
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0",
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
