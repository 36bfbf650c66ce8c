"""Our slim networks beside a reference: the reference's variables put into our graph, outputs compared."""

import keras
import numpy as np
import tensorflow as tf

from finetune.backbone import networks
from finetune.backbone.networks.names import slim_variables
from finetune.batchnorm.surgery import adopt

Size = int | tuple[int, int]
"""The side, or (height, width), in px."""


def random_images(size: Size, batch: int = 2) -> np.ndarray:
    """Standard normal float32 `[batch, height, width, 3]`."""
    height, width = (size, size) if isinstance(size, int) else size
    return np.random.default_rng(height).normal(0, 1, (batch, height, width, 3)).astype(np.float32)


def build_with(
    variables: dict[str, np.ndarray],
    family: str,
    size: Size,
    arguments: dict,
    *,
    outputs: int | None,
    leftover: set[str] = frozenset(),
) -> keras.Model:
    """Our network with each of `variables` used once; exactly the names of `leftover` find no place in it."""
    model = networks.build(family, image_size=size, outputs=outputs, arguments=arguments).model
    targets = slim_variables(model)
    assert set(targets) - set(variables) == set()
    assert set(variables) - set(targets) == leftover
    for name, variable in targets.items():
        assert variable.shape == variables[name].shape, name
        variable.assign(variables[name])
    return model


def trained(model: keras.Model) -> keras.Model:
    """The network as it is trained here, with the fused BatchNorm that slim has too.

    Keras's own arithmetic is as near to float64 (both 1e-4 off after the 94 batch normalisations of an Inception v3),
    but not as near to slim.
    """
    return adopt(model, unbiased=True)


def difference(ours: tf.Tensor, theirs: np.ndarray) -> float:
    """Largest difference as a share of the reference's scale."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max())
