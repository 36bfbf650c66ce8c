"""Keras's optimizers and schedules, with weight decay kept off BatchNorm and biases."""

from typing import Any

import keras

from finetune.config import RunConfig


def build(config: RunConfig, variables: list[Any], *, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a completed config, built for `variables` and a run of `steps` updates."""
    common = {
        "learning_rate": _schedule(config, steps),
        "weight_decay": config.weight_decay or None,
        "global_clipnorm": config.clip_norm,
    }
    if config.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(momentum=0.9, nesterov=True, **common)
    else:
        # Unlike SGD it takes no None.
        optimizer = keras.optimizers.AdamW(**{**common, "weight_decay": config.weight_decay or 0.0})
    # Biases, gamma and beta are the variables of rank one: shrinking them towards zero is not a simpler model.
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_list=[v for v in variables if len(v.shape) < 2])
    optimizer.build(variables)
    return optimizer


def _schedule(config: RunConfig, steps: int) -> Any:
    if config.schedule == "constant":
        return config.learning_rate
    warmup = round(config.warmup * steps)
    if warmup == 0:
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, decay_steps=steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(steps - warmup, 1), warmup_target=config.learning_rate, warmup_steps=warmup
    )
