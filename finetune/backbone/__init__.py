"""From a name to a pretrained network under the BatchNorm of this package, with a head and a freeze plan."""

from checkpoints.catalog.lookup import BackboneSpec
from finetune.backbone.hub.module_layer import check_plan
from finetune.backbone.keras_2.legacy_config import needs_keras_2
from finetune.backbone.keras_2.legacy_directory import has_layers
from finetune.backbone.keras_2.legacy_subject import LegacySubject
from finetune.backbone.keras_2.to_keras_3 import Transfer
from finetune.backbone.keras_file import (
    SUFFIXES,
    legacy_subject,
    model_path,
    open_model,
    save_stock,
    write_back,
    write_model,
)
from finetune.backbone.keras_file import find as describe_model
from finetune.backbone.kerashub.preset_folder import is_preset
from finetune.backbone.loading import (
    Backbone,
    check_image_size,
    find_backbone,
    head_outputs,
    image_size_of,
    load_backbone,
    module_handle,
    published_preprocessing,
    unbiased,
)

__all__ = [
    "SUFFIXES",
    "Backbone",
    "BackboneSpec",
    "LegacySubject",
    "Transfer",
    "check_image_size",
    "check_plan",
    "describe_model",
    "find_backbone",
    "has_layers",
    "head_outputs",
    "image_size_of",
    "is_preset",
    "legacy_subject",
    "load_backbone",
    "model_path",
    "module_handle",
    "needs_keras_2",
    "open_model",
    "published_preprocessing",
    "save_stock",
    "unbiased",
    "write_back",
    "write_model",
]
