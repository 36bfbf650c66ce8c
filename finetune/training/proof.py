"""Proof, after training, that what was called frozen is bit-identical and that what should have moved has moved."""

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
    """`moved_though_frozen` must be empty, or the run has failed; `unmoved` names what trained yet kept every bit."""

    frozen: int
    moving: int
    moved_though_frozen: tuple[str, ...]
    unmoved: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Nothing frozen has moved, and something that should move did."""
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
    """Variable path -> whether training steps may change it: by `plan`, what the user was told, and by the layers'
    switches as well. Without a plan, by the switches alone.

    A convolution's bias in front of a BatchNorm that normalises by batch statistics has no gradient, and dropout's
    seed moves without being a weight; both are left to `unmoved` or out of the account.
    """
    told = {one.layer.name: one for one in plan.layers} if plan is not None else {}
    expected = {}
    for layer in parts(model):
        said = told.get(layer.name)
        for variable in layer.weights:
            if is_bn(layer) and (variable is layer.moving_mean or variable is layer.moving_variance):
                may = said is None or (said.bn is not None and said.bn.statistics == "batch" and said.bn.updates)
                expected[variable.path] = may and layer.statistics == "batch" and layer.updates
            else:
                expected[variable.path] = bool(variable.trainable) and (said is None or said.trains)
    return expected


def without_gradient(model: keras.Model, proved: Proof) -> int:
    """How many of `unmoved` are biases that BatchNorm takes away again, as the model's switches are set."""
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
    """Compare the digests of before and after training with what was expected to move."""
    same = {path: before[path] == after[path] for path in after}
    return Proof(
        frozen=sum(not moves for moves in expected.values()),
        moving=sum(expected.values()),
        moved_though_frozen=tuple(path for path, moves in expected.items() if not moves and not same[path]),
        unmoved=tuple(path for path, moves in expected.items() if moves and same[path]),
    )
