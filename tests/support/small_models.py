"""Small classifiers of coloured noise, of Keras 3 and of Keras 2, whose moving statistics lag far behind."""

from functools import cache
from typing import Any

import numpy as np

CLASSES = 4
SHAPE = (12, 12, 3)
MOMENTUM = 0.999


@cache
def images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels in [0, 1] as `x / 255` makes them, and their classes, which differ in colour: `train` and `test`."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 320)
    tint = 40 * labels[:, None, None, None] * np.array([1.0, 0.2, -0.3])
    pixels = (rng.normal(size=(320, *SHAPE)) * 40 + 60 + tint).clip(0, 255).astype(np.uint8)
    scaled = pixels.astype(np.float32) / 255
    return {"train": (scaled[:200], labels[:200]), "test": (scaled[200:], labels[200:])}


def network(keras: Any, *, momentum: float = MOMENTUM, activation: str | None = None) -> Any:
    """A nested functional model of `keras`, which may be Keras 3 or `tf_keras`: two BN layers, one in a model in it."""
    layers = keras.layers
    inner = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, strides=2, name="conv1")(inner)
    base = keras.Model(inner, layers.ReLU()(layers.BatchNormalization(momentum=momentum, name="bn1")(x)), name="base")
    outer = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, name="conv2")(base(outer))
    x = layers.ReLU()(layers.BatchNormalization(momentum=momentum, name="bn2")(x))
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(outer, layers.Dense(CLASSES, activation=activation, name="logits")(x), name="classifier")


def trained(keras: Any, *, epochs: int = 6, **options: Any) -> Any:
    """`network` after so many epochs of `fit`, compiled."""
    keras.utils.set_random_seed(0)
    model = network(keras, **options)
    probabilities = options.get("activation") is not None
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not probabilities)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    model.fit(*images()["train"], epochs=epochs, batch_size=40, verbose=0)
    return model


def subclassed(keras: Any, model: Any) -> Any:
    """A model of a class of its own that calls `model`: it has no graph of layers."""

    class Own(keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inside = model

        def call(self, images: Any, training: Any = None) -> Any:
            return self.inside(images, training=training)

    own = Own()
    own(images()["test"][0][:1])
    return own


def state(model: Any) -> list[np.ndarray]:
    """A copy of every variable of a model and of its optimizer."""
    optimizer = getattr(model, "optimizer", None)
    return [np.array(one) for one in (*model.variables, *(optimizer.variables if optimizer is not None else ()))]
