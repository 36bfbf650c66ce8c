"""Jobs that will want the same cached features: one goes first, and computes them for all."""

from typing import Any

from finetune.batch.jobs import Job
from finetune.config import RunConfig, presets, settings_with


def features_of(job: Job) -> tuple[Any, ...] | None:
    """Equal for jobs that train a head on the same frozen backbone; None for jobs that compute everything themselves.

    With random weights the seed counts as well. Whether the features are the same is decided later, by their keys
    (`finetune.training.feature_cache.keys`): a mistake here only costs time.
    """
    config: RunConfig = presets.expand(job.config)
    frozen = config.freeze == ("*",) and set(config.bn) <= {"freeze"}
    mixed = config.mixup or config.cutmix or config.rand_augment
    if not frozen or mixed or config.cache_features == "off":
        return None
    return (*(getattr(config, name) for name in settings_with("decides_features")), config.from_scratch and config.seed)
