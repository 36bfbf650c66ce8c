"""Proof, after training, that frozen variables are bit-identical and that trainable variables have changed.

With gradual unfreezing, each phase of a run is also proved by itself.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from finetune.backbone.freezing import FreezePlan
from finetune.batchnorm.surgery import is_bn, parts
from finetune.errors import FinetuneError
from finetune.runs.directory import RunDir
from finetune.training.display import Display
from finetune.training.loop import kernels, train
from finetune.training.phases import Prepared


@dataclass(frozen=True)
class Proof:
    """`moved_though_frozen` must be empty, or the run has failed. `unmoved`: trainable ones that did not change."""

    frozen_variables: int
    moving_variables: int
    moved_though_frozen: list[str]
    unmoved: list[str]

    @property
    def holds(self) -> bool:
        """No frozen variable has changed, and at least one trainable variable has."""
        return not self.moved_though_frozen and (not self.moving_variables or len(self.unmoved) < self.moving_variables)

    def to_json(self) -> dict[str, Any]:
        """For `result.json`."""
        return {"holds": self.holds, **asdict(self)}


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
    moving = sum(expected.values())
    return Proof(
        frozen_variables=len(expected) - moving,
        moving_variables=moving,
        moved_though_frozen=[path for path, moves in expected.items() if not moves and not same[path]],
        unmoved=[path for path, moves in expected.items() if moves and same[path]],
    )


class Phases(train.Phases):
    """The phases of a run for the loop, and the proof of its freeze plan. Most runs are one phase.

    `freeze.json` keeps the plan and the digests of all variables before training; `resumed` is whether it does already.
    With several phases, it also keeps for each its plan and the digests of all variables at its start. Once a
    phase is over, it also keeps the proof that its frozen variables are unchanged. Entering a phase again, as a resumed
    run does, changes neither: a phase begins with the state that the one before it left, to the bit.

    Raises FinetuneError where `freeze.json` is of another model.
    """

    def __init__(self, run: RunDir, prepared: Prepared, display: Display, *, resumed: bool) -> None:
        self._run, self._prepared, self._display = run, prepared, display
        self._expected = expected_to_change(prepared.model, prepared.plan)
        if not resumed:
            run.write("freeze.json", {"stages": prepared.plan.stages(), "digests": digests(prepared.model)})
        self._digests = run.read("freeze.json")["digests"]
        if self._digests.keys() != self._expected.keys():
            raise FinetuneError(f"{run.path / 'freeze.json'} is of another model: the run directory is damaged")

    @property
    def first_epochs(self) -> list[int]:
        """The epoch each phase begins with, counted from 0."""
        return [phase.first_epoch for phase in self._prepared.phases]

    def close(self) -> list[dict[str, Any]]:
        """The proofs of all phases, for `result.json`. To be called after the last step, before anything else changes.

        Empty where there is one phase: the proof of the whole run covers it."""
        if len(self.first_epochs) == 1:
            return []
        kept = self._kept()
        self._close(kept)
        self._keep(kept)
        return [{"first_epoch": one["first_epoch"], **one["proof"]} for one in kept]

    def proof(self, phases: list[dict[str, Any]]) -> dict[str, Any]:
        """`proof` of `result.json`, of the whole run as the model is now. `phases` are what `close` returned."""
        model = self._prepared.model
        proved = prove(self._digests, digests(model), self._expected)
        return {
            **proved.to_json(),
            "without_gradient": without_gradient(model, proved),
            "holds": proved.holds and all(one["holds"] for one in phases),
            **({"phases": phases} if phases else {}),
        }

    def enter(self, number: int) -> None:
        """Set the layers' switches for a phase, with its plan and digests in `freeze.json`."""
        phases = self._prepared.phases
        kept = self._kept() if len(phases) > 1 else []
        if len(kept) > number:
            # A killed run continues from a state that is older than its last entry here. Without --deterministic,
            # steps that are repeated end in other bits, so later phases start from other values.
            kept = kept[: number + 1]
            kept[number].pop("proof", None)
            self._keep(kept)
        if number and len(kept) == number:
            self._close(kept)
        phase = phases[number]
        self._prepared.apply(phase.plan)
        if len(phases) > 1 and len(kept) == number:
            stages, begun = phase.plan.stages(), digests(self._prepared.model)
            kept.append({"first_epoch": phase.first_epoch + 1, "stages": stages, "digests": begun})
            self._keep(kept)
        if number:
            before = phases[number - 1].plan.training_stages
            names = [stage for stage in phase.plan.training_stages if stage not in before]
            words = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
            self._display.say(f"epoch {phase.first_epoch + 1}: {words} train{'s' if len(names) == 1 else ''} as well")

    def _close(self, kept: list[dict[str, Any]]) -> None:
        """Prove the last phase of `kept`."""
        if "proof" not in kept[-1]:
            model = self._prepared.model
            plan = self._prepared.phases[len(kept) - 1].plan
            self._prepared.apply(plan)  # a run resumed between two phases has not set its switches
            proved = prove(kept[-1]["digests"], digests(model), expected_to_change(model, plan)).to_json()
            # A trainable variable need not change within one phase: for example after the best epoch.
            del proved["unmoved"]
            kept[-1]["proof"] = {**proved, "holds": not proved["moved_though_frozen"]}

    def _kept(self) -> list[dict[str, Any]]:
        """What `freeze.json` holds of the phases so far."""
        return list(self._run.read("freeze.json").get("phases", []))

    def _keep(self, kept: list[dict[str, Any]]) -> None:
        """Replace what `freeze.json` holds of the phases."""
        self._run.write("freeze.json", {**self._run.read("freeze.json"), "phases": kept})
