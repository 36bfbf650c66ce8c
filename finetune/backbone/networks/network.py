"""What a network builder returns: a pure Keras graph and the names a user may say about it."""

from dataclasses import dataclass

import keras


@dataclass(frozen=True)
class Stage:
    """A run of layers a user can freeze by name.

    `end` is the name of the layer whose output ends the stage. The stage holds every ancestor of that layer
    that no earlier stage holds; the last stage also holds what follows it, up to the pooled features.
    """

    name: str
    end: str


@dataclass(frozen=True)
class Network:
    """A graph without weights of its own worth keeping (freshly initialised).

    model: float32 `[batch, height, width, 3]`, already preprocessed, to pooled features `[batch, channels]`,
        or to logits `[batch, outputs]` when it was built with `outputs`.
    scope: the root scope in front of every layer name, or "" (`resnet_v1_50` in
        `resnet_v1_50.block1.unit_1.bottleneck_v1.conv1`); patterns may leave it out.
    stages: from the input to the output.
    """

    model: keras.Model
    scope: str
    stages: tuple[Stage, ...]
