"""A run's settings: their declarations, checks, presets and contradictions. Imports no TensorFlow."""

from finetune.config import presets
from finetune.config.checking import (
    DEFAULTS,
    LISTS,
    PATHS,
    as_in_a_file,
    check_config,
    check_settings,
    from_mapping,
    named,
)
from finetune.config.class_weights import BALANCED, with_weights_read
from finetune.config.run_config import (
    CHANGES,
    READING,
    RECIPE,
    SETTINGS,
    TTA,
    Augment,
    Precision,
    ResizeMode,
    RunConfig,
    settings_with,
)
from finetune.config.tracker_setting import absolute_trackers, check_trackers, parse_tracker

__all__ = [
    "BALANCED",
    "CHANGES",
    "DEFAULTS",
    "LISTS",
    "PATHS",
    "READING",
    "RECIPE",
    "SETTINGS",
    "TTA",
    "Augment",
    "Precision",
    "ResizeMode",
    "RunConfig",
]
__all__ += [
    "absolute_trackers",
    "as_in_a_file",
    "check_config",
    "check_settings",
    "check_trackers",
    "from_mapping",
    "named",
]
__all__ += ["parse_tracker", "presets", "settings_with", "with_weights_read"]
