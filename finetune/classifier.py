"""The head: features of a backbone to logits of your classes."""

import keras

LOGITS = "head.logits"


def attach_head(
    backbone: keras.Model, classes: int, *, dropout: float = 0.0, hidden: int | None = None, seed: int = 0
) -> keras.Model:
    """`backbone` (to features `[batch, channels]`) continued to logits `[batch, classes]`, as one flat graph.

    The logits layer starts at zero: the first loss is log(classes) whatever the features' scale, and the first
    gradients do not shake the backbone. `hidden` adds a ReLU layer of that width, `dropout` (in [0, 1)) drops
    features in front of the logits in training.
    """
    x = backbone.output
    if hidden:
        initializer = keras.initializers.GlorotUniform(seed=seed)
        x = keras.layers.Dense(hidden, activation="relu", kernel_initializer=initializer, name="head.hidden")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, seed=seed, name="head.dropout")(x)
    logits = keras.layers.Dense(classes, kernel_initializer="zeros", name=LOGITS)(x)
    return keras.Model(backbone.input, logits, name="classifier")
