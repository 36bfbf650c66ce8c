"""Jobs that will want the same cached features: one goes first, and computes them for all."""

from typing import Any

from finetune.batch.jobs import Job
from finetune.config.presets import expand
from finetune.config.run_config import RunConfig

_SETTINGS = (
    "backbone", "checkpoint", "data", "data_dir", "image_size", "preprocess", "augment", "bn_epsilon", "features",
    "cache_precision",
)  # fmt: skip
"""What features depend on. Whether they are the same after all is found by their keys (`finetune.training.feature_cache.keys`): a
mistake here costs time, and nothing else."""


def features_of(job: Job) -> tuple[Any, ...] | None:
    """Equal for jobs that train a head on the same frozen backbone; None for jobs that compute everything themselves.

    With random weights the seed counts as well.
    """
    config: RunConfig = expand(job.config)
    frozen = config.freeze == ("*",) and set(config.bn) <= {"freeze"}
    mixed = config.mixup or config.cutmix or config.rand_augment
    if not frozen or mixed or config.cache_features == "off":
        return None
    return (*(getattr(config, name) for name in _SETTINGS), config.from_scratch and config.seed)
