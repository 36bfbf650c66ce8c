"""Check what a run asks for, before anything is read."""

from dataclasses import dataclass, replace

from finetune.backbone import BackboneSpec, check_image_size, find_backbone, freezing
from finetune.batchnorm.policy import Rule, parse_bn_rule
from finetune.config import RunConfig, check_config, check_trackers, presets
from finetune.data.preprocessing import find_preprocessing
from finetune.errors import WrongUse

_NETWORK = "give the name of its network and its weights with --checkpoint, or leave"
_NOT_FOR_HUB_MODULES = {
    "from_scratch": "holds weights, but not how they are initialised: give the name of its network",
    "precision": f"is a graph, whose precision is fixed: {_NETWORK} --precision out",
    "distribute": f"is a graph whose variables cannot be copied to several replicas: {_NETWORK} --distribute out",
}
"""Settings that a Hub module does not take, and why."""


@dataclass(frozen=True)
class Resolved:
    """A config with the backbone and the rules that it names. `config.from_scratch` is set where no weights exist."""

    config: RunConfig
    spec: BackboneSpec
    freeze: list[Rule]
    bn: list[Rule]


def check_request(config: RunConfig) -> Resolved:
    """Check everything about `config` that needs no data, weights or model.

    Raises WrongUse, CheckpointError.
    """
    spec = find_backbone(config.backbone)
    if spec.unpublished and config.checkpoint is None:
        if config.head == "keep":
            raise WrongUse(f"--head keep: no weights are published for {spec.id}: give a file with --checkpoint PATH")
        config = replace(config, from_scratch=True)
    config = presets.expand(check_config(config))
    check_trackers(config.tracker)
    freeze = [freezing.parse_freeze_rule(text) for text in config.freeze]
    bn = [parse_bn_rule(text) for text in config.bn]
    for name, why in _NOT_FOR_HUB_MODULES.items():
        if spec.source == "hub" and config.is_set(name):
            raise WrongUse(f"{config.as_option(name)}: {spec.id} {why}")
    if config.preprocess is not None:
        find_preprocessing(config.preprocess)
    elif not spec.preprocessing:
        raise WrongUse(
            f"{spec.id} does not say how its pixels are scaled: expected a Rescaling or Normalization layer first in "
            "it, or the config.json of its run beside it; give --preprocess inception (pixels in [-1, 1]), unit "
            "([0, 1]), caffe, torch, vgg, or raw ([0, 255])"
        )
    if config.image_size is not None:
        check_image_size(spec, config.image_size)
    return Resolved(config, spec, freeze, bn)
