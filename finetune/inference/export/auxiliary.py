"""The auxiliary head of slim's Inception networks for 299 px: slim's default graph restores it, though only a loss in
training reads it, and the networks of this package are built without it."""

from collections.abc import Container
from pathlib import Path

import numpy as np

from checkpoints import store
from checkpoints.catalog.lookup import BackboneSpec
from checkpoints.errors import CheckpointError
from checkpoints.formats import Checkpoint, open_checkpoint

_SCOPE = "AuxLogits"
_POOL, _STRIDE = 5, 3
_CONV, _WIDE = 128, 768
_LEAST = 16
"""slim's `min_depth`: channels that a depth multiplier leaves."""


def auxiliary_head(
    spec: BackboneSpec, *, side: int, outputs: int, source: Path | None
) -> tuple[dict[str, np.ndarray], str]:
    """(variables by slim's names, a note for the user) for images of `side` px; ({}, "") for networks without one.

    Those that the file at `source`, or the published one in the cache, has in the same shape are its own. The others,
    always the logits of other classes, are new. At sizes for which slim's graph cannot build the head there are none.
    """
    if not spec.auxiliary:
        return {}, ""
    grown = _map_side(side)
    if grown < _POOL:
        note = (
            f"slim's auxiliary head needs larger images than {side} px: build the network with create_aux_logits=False"
        )
        return {}, note
    shapes = _shapes(spec, (grown - _POOL) // _STRIDE + 1, outputs)
    taken = _of_file(spec, source, shapes)
    rng = np.random.default_rng(0)
    arrays, new = {}, []
    for name, shape in shapes.items():
        array = taken.get(name)
        if array is None or array.shape != shape:
            new.append(name)
            array = _initial(name, shape, rng)
        arrays[f"{spec.auxiliary[0].partition('/')[0]}/{_SCOPE}/{name}"] = array.astype(np.float32)
    origin = "freshly initialised" if len(new) == len(shapes) else "from the source checkpoint"
    if 0 < len(new) < len(shapes):
        origin += f", but for its logits ({', '.join(new)}), which are new"
    return arrays, f"auxiliary head for slim's default graph: {origin}; it takes no part in the outputs"


def _map_side(side: int) -> int:
    """Side of the 17 x 17 map (at 299 px) that the head starts from, after slim's VALID layers."""
    side = (side - 3) // 2 + 1 - 2
    side = (side - 3) // 2 + 1 - 2
    for _ in range(2):
        side = (side - 3) // 2 + 1
    return side


def _shapes(spec: BackboneSpec, kernel: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Name below `AuxLogits` -> shape. Source: research/slim/nets of tensorflow/models, tf_slim/nets."""

    def depth(channels: int) -> int:
        return max(int(channels * spec.arguments.get("depth_multiplier", 1.0)), _LEAST)

    first, wide = depth(_CONV), depth(_WIDE)
    channels = {"inception_v3": wide, "inception_v4": 1024, "inception_resnet_v2": 1088}[spec.family]
    kernel = min(kernel, 5) if spec.family == "inception_v3" else kernel
    second = {
        "inception_v3": f"Conv2d_2a_{kernel}x{kernel}",
        "inception_v4": "Conv2d_2a",
        "inception_resnet_v2": "Conv2d_2a_5x5",
    }[spec.family]
    shapes: dict[str, tuple[int, ...]] = {}
    for conv, shape in (("Conv2d_1b_1x1", (1, 1, channels, first)), (second, (kernel, kernel, first, wide))):
        shapes[f"{conv}/weights"] = shape
        shapes |= {f"{conv}/BatchNorm/{name}": shape[-1:] for name in ("beta", "moving_mean", "moving_variance")}
    logits = {"inception_v3": "Conv2d_2b_1x1", "inception_v4": "Aux_logits", "inception_resnet_v2": "Logits"}
    sides = (1, 1) if spec.family == "inception_v3" else ()
    name = logits[spec.family]
    return {**shapes, f"{name}/weights": (*sides, wide, outputs), f"{name}/biases": (outputs,)}


def _initial(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if name.endswith("weights"):
        return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
    return np.full(shape, float(name.endswith("moving_variance")))


def _of_file(spec: BackboneSpec, source: Path | None, wanted: Container[str]) -> dict[str, np.ndarray]:
    """Wanted name below `AuxLogits` -> array, of the user's file or the cached one; {} where there is none any more."""
    try:
        if source is None:
            if store.is_cached(spec, with_head=True) is None:
                return {}
            source = store.locate(spec, with_head=True)
        opened: Checkpoint = open_checkpoint(source)
        below = {name: name.rpartition(f"{_SCOPE}/")[2] for name in opened.shapes if f"{_SCOPE}/" in name}
        return {short: opened.read(name) for name, short in below.items() if short in wanted}
    except CheckpointError:
        return {}
