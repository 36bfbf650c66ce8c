"""The only place where catalogue, network, weights and BatchNorm meet."""

from checkpoints.catalog.lookup import BackboneSpec
from finetune.backbone.find import find_backbone, module_handle, published_preprocessing, unbiased
from finetune.backbone.hub.module import check_plan
from finetune.backbone.keras_file import open_model
from finetune.backbone.loading import Backbone, check_image_size, head_outputs, load_backbone

__all__ = [
    "Backbone",
    "BackboneSpec",
    "check_image_size",
    "check_plan",
    "find_backbone",
    "head_outputs",
    "load_backbone",
    "module_handle",
    "open_model",
    "published_preprocessing",
    "unbiased",
]
