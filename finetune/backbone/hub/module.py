"""TensorFlow Hub modules and SavedModel directories as backbones."""

import itertools
import os
from typing import Any

import keras

from checkpoints.cache.records import sha256_of
from checkpoints.catalog.spec import BackboneSpec
from checkpoints.matching.transfer import LoadReport
from finetune.backbone.freezing import FreezePlan
from finetune.backbone.hub import signatures
from finetune.backbone.hub.module_layer import HubModule
from finetune.batchnorm.module_parts import Module, PartBatchNorm
from finetune.batchnorm.surgery import BatchNormOptions
from finetune.errors import WrongUse

STAGE = "module"
"""The one stage of a module: its layers are only distinguished by the names of their variables."""
PREPROCESSING = "unit"
"""Hub's convention for images: [0, 1]."""
_ANY_SIZE = 224


def find(handle: str) -> BackboneSpec:
    """The spec of a module; a path in it is made absolute. Loads it: its size and its variables are in it."""
    if "://" not in handle:
        handle = os.path.abspath(os.path.expanduser(handle))
    loaded = signatures.load(handle)
    return BackboneSpec(
        name=handle,
        source="hub",
        family="",
        preprocessing=PREPROCESSING,
        image_size=loaded.side or _ANY_SIZE,
        own_size=loaded.side is not None,
        bn_decay=0.99,
        bn_epsilon=0.0,
        parameters=sum(int(one.shape.num_elements()) for one in loaded.variables),
        reference="a TensorFlow Hub module or SavedModel; images in [0, 1] by Hub's convention",
    )


def load(
    spec: BackboneSpec,
    *,
    image_size: int,
    batchnorm: BatchNormOptions,
    features: str | None,
    keep: bool,
) -> tuple[keras.Model, str, dict[str, list[str]], LoadReport]:
    """The module as a model that gives features: (model, root scope, its one stage, what it holds).

    Raises WrongUse for options that need layers a module hides.
    """
    for option, given, why in (
        ("--bn-epsilon", batchnorm.epsilon is not None, "hides its epsilon"),
        ("--bn-renorm", batchnorm.renorm, "normalises out of reach"),
        ("--bn-zero-debias", batchnorm.zero_debias, "moves its averages itself"),
        ("--features", features is not None, "hides its layers"),
        ("--head keep", keep, "ends in features"),
    ):
        if given:
            raise WrongUse(
                f"{option}: the module {spec.name} {why}: leave it out. A module made of slim weights opens layer by "
                "layer: --backbone NAME --checkpoint MODULE_DIR"
            )
    module = HubModule(spec.name, image_size)
    images = keras.Input((image_size, image_size, 3), name="images")
    model = keras.Model(images, module(images), name=spec.label)
    names = tuple(variable.path for part in module.parts for variable in part.weights)
    report = LoadReport(spec.name, "saved-model", sha256_of(*signatures.files(spec.name)), names, {})
    return model, _root(module), {STAGE: [part.name for part in module.parts]}, report


def _root(module: Module) -> str:
    """The scope that all variables share (`resnet_v1_50`), or ""."""
    columns = zip(*(part.name.split(".") for part in module.parts), strict=False)
    shared = [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]
    return "/".join(shared) if len(module.parts) > 1 else ""


def check_plan(model: keras.Model, plan: FreezePlan) -> None:
    """WrongUse where a plan asks of a module what its one `training` argument cannot give."""
    for module in model.layers:
        if not isinstance(module, Module):
            continue
        rows = [row for row in plan.layers if row.layer.stage == STAGE]
        name = getattr(module, "handle", module.name)
        wanted: set[Any] = {row.bn.statistics for row in rows if row.bn is not None}
        if len(wanted) > 1:
            batch = [row.layer.display for row in rows if row.bn is not None and row.bn.statistics == "batch"]
            raise WrongUse(
                f"the module {name} has one training argument for all of its BatchNorm, but {len(batch)} of "
                f"{sum(isinstance(part, PartBatchNorm) for part in module.parts)} BN layers would use batch statistics "
                f"(such as {batch[0]}) and the rest moving ones: give one of --bn freeze, --bn train for the whole "
                "module. A module made of slim weights opens layer by layer: --backbone NAME --checkpoint MODULE_DIR"
            )
        if not module.can_train and any(row.trains or (row.bn is not None and row.bn.updates) for row in rows):
            raise WrongUse(
                f"the module {name} takes no training argument, so that it can only be used frozen: give --freeze '*' "
                "to train a head on it, or a module that takes one"
            )
