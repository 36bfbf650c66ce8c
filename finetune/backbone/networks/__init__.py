"""Pure Keras graphs: no weights, no downloads. A family of networks is one module here."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from finetune.backbone.networks.network import Network


def build(
    family: str,
    *,
    image_size: int | tuple[int | None, int | None],
    outputs: int | None,
    arguments: Mapping[str, Any],
) -> Network:
    """Build a freshly initialised network of `finetune.backbone.networks.<family>`.

    `image_size` is the side, or (height, width), in px; None for a side that may be any, in the families of KerasHub.
    With `outputs` the model ends in that many logits, without in the pooled features. `arguments` are the family's own.
    Raises ModuleNotFoundError for an unknown family: the catalogue names families, users do not.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    network: Network = import_module(f"{__name__}.{family}").build(image_size=size, outputs=outputs, **arguments)
    return network
