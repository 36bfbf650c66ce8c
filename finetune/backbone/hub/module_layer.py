"""TF2 SavedModels, of TensorFlow Hub or of the user, as backbones: each is one Keras 3 layer."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from checkpoints.cache.records import sha256_of
from checkpoints.catalog.spec import BackboneSpec
from checkpoints.matching.transfer import LoadReport
from finetune.backbone.freezing import FreezePlan
from finetune.backbone.hub import signatures
from finetune.batchnorm.module_parts import Loaded, Module
from finetune.batchnorm.surgery import BatchNormOptions
from finetune.errors import FinetuneError, UserError, WrongUse

STAGE = "module"
"""The one stage of a module: its layers are only distinguished by the names of their variables."""
PREPROCESSING = "unit"
"""Hub's convention for images: [0, 1]."""
ANY_SIZE = 224
"""Side in px that is assumed for a model that accepts images of any size."""

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
    """The module of a handle (see `signatures.load`); its variables are this layer's, in `parts` by scope.

    output: which of its results is meant, where it has several.
    A `.keras` file with this layer holds the variables and the handle. Loading it needs the SavedModel.
    Raises FinetuneError for a module that cannot be used at all, WrongUse where it takes no images of `image_size`.
    """

    def __init__(
        self, handle: str, image_size: int, *, output: str | None = None, name: str = "module", **kwargs: Any
    ) -> None:
        loaded = signatures.load(handle, output)
        super().__init__(loaded, name=name, **kwargs)
        self.handle, self.image_size, self.chosen = handle, image_size, output
        images = np.random.default_rng(0).uniform(0, 1, (2, image_size, image_size, 3)).astype(np.float32)
        self.channels = _features(loaded, images)
        if self.can_train and self.bn and not loaded.takes_momentum and self.learn_decay(images) is None:
            raise FinetuneError(
                f"{handle} moves its BatchNorm statistics in a way that is no moving average of one decay (layers that "
                "are frozen, or called as base(x, training=False), do not move theirs), and takes no "
                "batch_norm_momentum: finetune cannot control it; give a module with that argument, or a functional "
                "model that Keras saved"
            )

    def graph_digest(self) -> str:
        """A hash of the SavedModel's graph, independent of its path and of the variables."""
        digest = hashlib.sha256()
        for path in signatures.files(self.handle):
            if path.name.startswith("saved_model."):
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def get_config(self) -> dict[str, Any]:
        """Where the module is, the size it is used at, and the output that was chosen."""
        chosen = {"output": self.chosen} if self.chosen else {}
        return {**super().get_config(), "handle": self.handle, "image_size": self.image_size, **chosen}

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


def _features(loaded: Loaded, images: np.ndarray) -> int:
    """The number of features; checks that the module gives `[batch, channels]` for images of this size."""
    size = images.shape[1]
    try:
        features = loaded.run(tf.constant(images), False, 1.0)
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


def find(handle: str, output: str | None = None) -> BackboneSpec:
    """The spec of a module; a path in it is made absolute. Loads it: its size and its variables are in it.

    `output`: one of its several results.
    """
    if "://" not in handle:
        handle = os.path.abspath(os.path.expanduser(handle))
    loaded = signatures.load(handle, output)
    return BackboneSpec(
        name=handle,
        source="hub",
        family="",
        arguments={"output": output} if output else {},
        preprocessing=PREPROCESSING,
        image_size=loaded.side or ANY_SIZE,
        own_size=loaded.side is not None,
        bn_decay=0.99,
        bn_epsilon=0.0,
        parameters=sum(int(one.shape.num_elements()) for one in loaded.variables),
        reference="a TensorFlow Hub module or SavedModel; images in [0, 1] by Hub's convention",
    )


def load(
    spec: BackboneSpec, *, image_size: int, batchnorm: BatchNormOptions, features: str | None, keep: bool
) -> tuple[keras.Model, str, dict[str, list[str]], LoadReport]:
    """The module as a model that gives features: (model, root scope, its one stage, what it holds).

    Raises WrongUse for options that need layers a module hides.
    """
    for option, given, why in (
        ("--bn-epsilon", batchnorm.epsilon is not None, "hides its epsilon"),
        ("--bn-renorm", batchnorm.renorm, "normalises out of reach"),
        ("--bn-zero-debias", batchnorm.zero_debias, "moves its averages itself"),
        ("--features", features is not None, "hides its layers"),
        ("--head keep", keep, "ends in features"),
    ):
        if given:
            raise WrongUse(
                f"{option}: the module {spec.name} {why}: leave it out. A module made of slim weights opens layer by "
                "layer: --backbone NAME --checkpoint MODULE_DIR"
            )
    module = HubModule(spec.name, image_size, output=spec.arguments.get("output"))
    images = keras.Input((image_size, image_size, 3), name="images")
    model = keras.Model(images, module(images), name=spec.label)
    names = tuple(variable.path for part in module.parts for variable in part.weights)
    report = LoadReport(spec.name, "saved-model", sha256_of(*signatures.files(spec.name)), names, {})
    return model, _root(module), {STAGE: [part.name for part in module.parts]}, report


def _root(module: Module) -> str:
    """The scope that all variables share (`resnet_v1_50`), or ""."""
    columns = zip(*(part.name.split(".") for part in module.parts), strict=False)
    shared = [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]
    return "/".join(shared) if len(module.parts) > 1 else ""


def check_plan(model: keras.Model, plan: FreezePlan) -> None:
    """WrongUse where a plan asks of a module what its one `training` argument cannot give."""
    for module in (layer for layer in model.layers if isinstance(layer, HubModule)):
        rows = [row for row in plan.layers if row.layer.stage == STAGE]
        batch = [row.layer.display for row in rows if row.bn is not None and row.bn.statistics == "batch"]
        if 0 < len(batch) < sum(row.bn is not None for row in rows):
            raise WrongUse(
                f"the module {module.handle} has one training argument for all of its BatchNorm, but {len(batch)} of "
                f"{len(module.bn)} BN layers would use batch statistics (such as {batch[0]}) and the rest moving ones: "
                "give one of --bn freeze, --bn train for the whole module. A module made of slim weights opens layer "
                "by layer: --backbone NAME --checkpoint MODULE_DIR"
            )
        if not module.can_train and any(row.trains or (row.bn is not None and row.bn.updates) for row in rows):
            raise WrongUse(
                f"the module {module.handle} takes no training argument, so that it can only be used frozen: give "
                "--freeze '*' to train a head on it, or a module that takes one"
            )
