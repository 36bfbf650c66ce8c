"""Rows of the catalogue made thin: the same families, names and rules, in a second instead of ten."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from checkpoints.catalog.lookup import BackboneSpec, find_row
from checkpoints.formats import open_checkpoint
from checkpoints.matching.fit import Fit, fit_row
from checkpoints.matching.structures import Entry
from finetune.backbone import networks
from finetune.backbone.file_names import network_entries
from finetune.backbone.networks.names import slim_variables
from tests.support import slim_oracle

THIN: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet_v1": ("slim/resnet_v1_50", {"units": (2, 1), "width": 8, "scope": "resnet_v1_50"}),
    "resnet_v2": ("slim/resnet_v2_50", {"units": (2, 1), "width": 8, "scope": "resnet_v2_50"}),
    "inception_v1": ("slim/inception_v1", {"scope": "InceptionV1"}),  # slim has no thinner one
    "inception_v2": ("slim/inception_v2", {"depth_multiplier": 0.3, "scope": "InceptionV2"}),
    "inception_v3": ("slim/inception_v3", {"depth_multiplier": 0.1, "scope": "InceptionV3"}),
    "densenet": ("slim/densenet121", {"layers": (2, 1, 1, 2), "scope": "densenet121"}),
    "mobilenet_v1": ("slim/mobilenet_v1_0.25", {"depth_multiplier": 0.25, "scope": "MobilenetV1"}),
    "vgg": ("slim/vgg_16", {"widths": (4, 4, 8, 8, 8), "hidden": 16, "scope": "vgg_16"}),
    "cifar_resnet": ("scratch/cifar_resnet", {"units": (1, 1), "width": 8, "shortcut": "pad", "scope": "cifar_resnet"}),
}
"""Family -> the row it is of, and its arguments."""


def thin(family: str) -> BackboneSpec:
    name, arguments = THIN[family]
    return dataclasses.replace(find_row(name), arguments=arguments)


def random_values(model: keras.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Values by slim's names for a network, which takes them: moving statistics far from 0 and 1."""
    variables = slim_variables(model)
    values = slim_oracle.random_variables({name: list(variable.shape) for name, variable in variables.items()}, seed)
    for name, variable in variables.items():
        variable.assign(values[name])
    return values


def fit_of(path: Path, spec: BackboneSpec) -> Fit:
    """How the file fits the row, which need not be in the catalogue."""
    return fit_row(open_checkpoint(path), spec, _entries(spec))


@cache
def _entries(spec: BackboneSpec) -> list[Entry]:
    network = networks.build(spec.family, image_size=spec.least_size, outputs=3, arguments=spec.arguments)
    return network_entries(network.model, source=spec.source)
