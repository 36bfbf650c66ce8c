"""Proof, after training, that frozen variables are bit-identical and that trainable variables have changed."""

import hashlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from finetune.backbone.freezing import FreezePlan
from finetune.batchnorm.surgery import is_bn, parts
from finetune.training.loop import kernels


@dataclass(frozen=True)
class Proof:
    """`moved_though_frozen` must be empty, or the run has failed. `unmoved`: trainable ones that did not change."""

    frozen: int
    moving: int
    moved_though_frozen: tuple[str, ...]
    unmoved: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """No frozen variable has changed, and at least one trainable variable has."""
        return not self.moved_though_frozen and (self.moving == 0 or len(self.unmoved) < self.moving)

    def to_json(self) -> dict[str, Any]:
        """For `result.json`."""
        return {
            "holds": self.holds,
            "frozen_variables": self.frozen,
            "moving_variables": self.moving,
            "moved_though_frozen": list(self.moved_though_frozen),
            "unmoved": list(self.unmoved),
        }


def expected_to_change(model: keras.Model, plan: FreezePlan | None = None) -> dict[str, bool]:
    """Variable path -> whether training steps may change it, by the layers' switches and by `plan`, if given.

    Two kinds of variables are special. The bias of a convolution before a BatchNorm that normalises by batch statistics
    has no gradient: it may end up in `unmoved`. Dropout's seed changes but is not a weight: it is left out.
    """
    planned = {one.layer.name: one for one in plan.layers} if plan is not None else {}
    expected = {}
    for layer in parts(model):
        layer_plan = planned.get(layer.name)
        for variable in layer.weights:
            if is_bn(layer) and (variable is layer.moving_mean or variable is layer.moving_variance):
                may = layer_plan is None or (
                    layer_plan.bn is not None and layer_plan.bn.statistics == "batch" and layer_plan.bn.updates
                )
                expected[variable.path] = may and layer.statistics == "batch" and layer.updates
            else:
                expected[variable.path] = bool(variable.trainable) and (layer_plan is None or layer_plan.trains)
    return expected


def without_gradient(model: keras.Model, proved: Proof) -> int:
    """How many of `unmoved` are biases that BatchNorm cancels, as the model's switches are set."""
    biases = {layer.bias.path for layer in parts(model) if kernels.bias_cancels(layer)}
    return len(biases & set(proved.unmoved))


def digests(model: keras.Model) -> dict[str, str]:
    """The bits of every weight and moving statistic as SHA-256 by path: small enough to keep with the run."""
    return {
        variable.path: hashlib.sha256(np.ascontiguousarray(variable).tobytes()).hexdigest()
        for layer in parts(model)
        for variable in layer.weights
    }


def prove(before: dict[str, str], after: dict[str, str], expected: dict[str, bool]) -> Proof:
    """Compare the digests before and after training with which variables were expected to change."""
    same = {path: before[path] == after[path] for path in after}
    return Proof(
        frozen=sum(not moves for moves in expected.values()),
        moving=sum(expected.values()),
        moved_though_frozen=tuple(path for path, moves in expected.items() if not moves and not same[path]),
        unmoved=tuple(path for path, moves in expected.items() if moves and same[path]),
    )
