"""A TF2 SavedModel, of TensorFlow Hub or of one's own, as a Keras 3 layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.backbone import saved_model
from finetune.batchnorm.module import Module
from finetune.errors import FinetuneError, WrongUse

_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())


@contextmanager
def trusting(*handles: str) -> Iterator[None]:
    """Inside, a `.keras` file may hold these modules: the user named them. A graph that is run can write files."""
    token = _trusted.set(frozenset(handles))
    try:
        yield
    finally:
        _trusted.reset(token)


@keras.saving.register_keras_serializable("finetune")
class HubModule(Module):
    """The module of a handle (see `saved_model.load`); its variables are this layer's, in `parts` by scope.

    A `.keras` file with it in holds the variables and the handle, and needs the SavedModel to be loaded again.
    Raises FinetuneError for a module that cannot be used at all, WrongUse where it takes no images of `image_size`.
    """

    def __init__(self, handle: str, image_size: int, *, name: str = "module", **kwargs: Any) -> None:
        loaded = saved_model.load(handle)
        trainable = {id(variable) for variable in loaded.trainable}
        super().__init__(
            loaded.variables,
            trainable,
            loaded.run,
            can_train=loaded.can_train,
            takes_momentum=loaded.takes_momentum,
            name=name,
            **kwargs,
        )
        self.handle, self.image_size = handle, image_size
        images = np.random.default_rng(0).uniform(0, 1, (2, image_size, image_size, 3)).astype(np.float32)
        self.channels = _features(loaded, images)
        if self.can_train and self.bn and not loaded.takes_momentum and self.learn_decay(images) is None:
            raise FinetuneError(
                f"{handle} moves its BatchNorm statistics in a way that is no moving average of one decay, and takes "
                "no batch_norm_momentum: finetune cannot control it; give a module with that argument"
            )

    def get_config(self) -> dict[str, Any]:
        """Where the module is, and the size it is used at."""
        return {**super().get_config(), "handle": self.handle, "image_size": self.image_size}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HubModule":
        """Only a handle the user has named is opened (`trusting`)."""
        if config.get("handle") not in _trusted.get():
            raise ValueError(f"untrusted SavedModel '{config.get('handle')}'")
        return cls(
            config["handle"], config["image_size"], name=config["name"], dtype=config.get("dtype"),
            trainable=config.get("trainable", True),
        )  # fmt: skip


def _features(loaded: saved_model.Loaded, images: np.ndarray) -> int:
    """The number of features; checks that the module gives `[batch, channels]` for images of this size."""
    size = images.shape[1]
    try:
        features = loaded.run(tf.constant(images), False, 1.0 if loaded.takes_momentum else None)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        made = f"it was made for {loaded.side} px" if loaded.side else "it was made for other sizes"
        raise WrongUse(
            f"{loaded.handle} does not take images of {size} px ({str(error).partition(chr(10))[0][:200]}): {made}; "
            "give --image-size"
        ) from None
    if len(features.shape) != 2 or not features.dtype.is_floating:
        raise FinetuneError(
            f"{loaded.handle} gives {features.dtype.name} {list(features.shape)} for {list(images.shape)}: expected "
            "features [batch, channels]; give a feature-vector module"
        )
    return int(features.shape[-1])
