"""A run's settings: their declarations, checks, presets and contradictions. Imports no TensorFlow."""

from finetune.config import presets
from finetune.config.checking import DEFAULTS, LISTS, PATHS, check_config, from_mapping, named
from finetune.config.class_weights import BALANCED, with_weights_read
from finetune.config.run_config import SETTINGS, Augment, RunConfig, settings_with
from finetune.config.tracker_setting import absolute_trackers, check_trackers, parse_tracker

__all__ = [
    "BALANCED",
    "DEFAULTS",
    "LISTS",
    "PATHS",
    "SETTINGS",
    "Augment",
    "RunConfig",
    "absolute_trackers",
    "check_config",
]
__all__ += ["check_trackers", "from_mapping", "named", "parse_tracker", "presets", "settings_with", "with_weights_read"]
