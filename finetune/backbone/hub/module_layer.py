"""A TF2 SavedModel, of TensorFlow Hub or of the user, as a Keras 3 layer."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.backbone.hub import signatures
from finetune.batchnorm.module_parts import Module
from finetune.errors import FinetuneError, UserError, WrongUse

_trusted: ContextVar[tuple[str | None, list[UserError]]] = ContextVar("trusted")


@contextmanager
def trusting(handle: str | None) -> Iterator[list[UserError]]:
    """Let a `.keras` file hold this module, which the user named, and no other: a graph can write files.

    Keras replaces the errors that a layer raises by its own; the list has the original ones.
    """
    failures: list[UserError] = []
    token = _trusted.set((handle, failures))
    try:
        yield failures
    finally:
        _trusted.reset(token)


@keras.saving.register_keras_serializable("finetune")
class HubModule(Module):
    """The module of a handle (see `saved_model.load`); its variables are this layer's, in `parts` by scope.

    A `.keras` file with this layer holds the variables and the handle. Loading it needs the SavedModel.
    Raises FinetuneError for a module that cannot be used at all, WrongUse where it takes no images of `image_size`.
    """

    def __init__(self, handle: str, image_size: int, *, name: str = "module", **kwargs: Any) -> None:
        loaded = signatures.load(handle)
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

    def graph_digest(self) -> str:
        """A hash of the SavedModel's graph, independent of its path and of the variables."""
        digest = hashlib.sha256()
        for path in signatures.files(self.handle):
            if path.name.startswith("saved_model."):
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def get_config(self) -> dict[str, Any]:
        """Where the module is, and the size it is used at."""
        return {**super().get_config(), "handle": self.handle, "image_size": self.image_size}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HubModule":
        """Only a handle the user has named is opened (`trusting`)."""
        trusted, failures = _trusted.get((None, []))
        handle = config.get("handle")
        try:
            if trusted is None or handle != trusted:
                raise FinetuneError(
                    f"refused: the model refers to the SavedModel {handle}, whose graph would run when it is loaded; "
                    f"it is opened only in a run directory whose config.json has the backbone hub:{handle}"
                )
            # Not through super(), which turns every error into one of its own; the dtype is the module's.
            return cls(**{name: value for name, value in config.items() if name != "dtype"})
        except UserError as error:
            failures.append(error)
            raise


def _features(loaded: signatures.Loaded, images: np.ndarray) -> int:
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
