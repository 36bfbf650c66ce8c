"""Variables that a training run leaves in a file of weights, in addition to the weights."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

Ignore = tuple[str, Sequence[str]]
"""A reason, and the fnmatch patterns of the names in the file that may be left over for it."""

LAYER_VARIABLES = (
    *("weights", "biases", "kernel", "bias", "depthwise_weights", "pointwise_weights", "depthwise_kernel"),
    *("pointwise_kernel", "gamma", "beta", "moving_mean", "moving_variance"),
)
"""What slim and `tf.layers` call the variables of a layer."""
TRAINING_LEFTOVERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "optimizer slots",
        (
            *("*/Momentum", "*/RMSProp", "*/RMSProp_1", "*/Adam", "*/Adam_1", "*/Adagrad", "*/Adadelta"),
            *("*/Adadelta_1", "*/Ftrl*", "beta1_power", "beta2_power", "*/beta1_power", "*/beta2_power", "optimizer/*"),
        ),
    ),
    ("moving averages of weights", ("*/ExponentialMovingAverage",)),
    ("training counters", ("global_step", "*/global_step", "save_counter", "save_counter/*")),
    # tf.contrib's moving averages kept these beside the moving statistics (moving_averages.assign_moving_average).
    ("zero-debias of moving averages", ("*/biased", "*/local_step")),
    # tf.contrib.quantize's ranges (`conv/weights_quant/min`, `conv/act_quant/max`), which float weights do without.
    ("ranges of quantisation-aware training", ("*_quant/*", "*/quant/*")),
    ("batch renormalisation", ("*/renorm_*",)),
    # In the files of slim's ResNet v1 and VGG, which were converted from Caffe: `resnet_v1_50/mean_rgb`, `[3]`. What it
    # says is in the catalogue, as preprocessing `vgg`.
    ("mean of the training pixels", ("*/mean_rgb", "mean_rgb")),
    ("averages of losses", ("*loss*/avg",)),
    ("copies of other replicas", ("*/replica_[0-9]*",)),
    # TF1 names what an optimizer keeps for a variable after the variable: `weights/AdamW`, `beta/LARSOptimizer_1`.
    ("optimizer slots", tuple(f"*/{variable}/[!.]*" for variable in LAYER_VARIABLES)),
    # Keras keeps the state of dropout and of augmentation layers.
    ("random states", ("*/seed_generator/*", "*/seed_generator_state")),
)
"""Reason, and the fnmatch patterns of the names."""


@lru_cache(maxsize=1 << 16)
def training_leftover(name: str) -> str | None:
    """The reason why a name is not a variable of a network, or None."""
    return reason(name, TRAINING_LEFTOVERS)


def reason(name: str, ignore: Sequence[Ignore]) -> str | None:
    """The first reason one of whose patterns fits."""
    return next((why for why, patterns in ignore if any(fnmatchcase(name, p) for p in patterns)), None)


def by_reason(names: Iterable[str], ignore: Sequence[Ignore]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """(names without a reason to be left over, reason -> its names), each in the order of `names`."""
    groups: dict[str | None, list[str]] = {}
    for name in names:
        groups.setdefault(reason(name, ignore), []).append(name)
    return groups.pop(None, []), {why: tuple(found) for why, found in groups.items() if why}
