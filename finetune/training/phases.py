"""The phases of a run: the layers' switches, the messages and the proof of each."""

from typing import Any

from finetune.runs.directory import RunDir
from finetune.training import proof
from finetune.training.display import Display
from finetune.training.loop import train
from finetune.training.prepare import Prepared


class Phases(train.Phases):
    """The phases of a run for the loop. A run without gradual unfreezing is one phase.

    With several phases, `freeze.json` keeps for each its plan and the digests of all variables at its start. Once a
    phase is over, it also keeps the proof that its frozen variables are unchanged. Entering a phase again, as a resumed
    run does, changes neither: a phase begins with the state that the one before it left, to the bit.
    """

    def __init__(self, run: RunDir, prepared: Prepared, display: Display) -> None:
        self._run, self._prepared, self._display = run, prepared, display
        self._per_epoch = prepared.steps_per_epoch * prepared.parts_per_step

    @property
    def first_epochs(self) -> list[int]:
        """The epoch each phase begins with, counted from 0."""
        return [phase.first_epoch for phase in self._prepared.phases]

    def close(self) -> list[dict[str, Any]]:
        """The proofs of all phases, for `result.json`. To be called after the last step, before anything else changes.

        Empty where there is one phase: the proof of the whole run covers it."""
        if len(self._prepared.phases) == 1:
            return []
        kept = self._kept()
        self._close(kept)
        self._keep(kept)
        return [{"first_epoch": one["first_epoch"], **one["proof"]} for one in kept]

    def updates(self, epochs: int) -> int:
        """How many updates the moving statistics have had after `epochs` epochs: the fewest of any layer that updates
        then; 0 where none does."""
        config, phases = self._prepared.config, self._prepared.phases
        if config.bn_updates == "off" or epochs == 0:
            return 0
        counts: dict[str, int] = {}
        now: set[str] = set()
        ends = [*(phase.first_epoch for phase in phases[1:]), epochs]
        for phase, end in zip(phases, ends, strict=True):
            lasted = min(end, epochs) - phase.first_epoch
            if lasted <= 0:
                break
            now = {one.layer.name for one in phase.plan.layers if one.bn is not None and one.bn.updates}
            for name in now:
                counts[name] = counts.get(name, 0) + lasted * self._per_epoch
        return min((counts[name] for name in now), default=0)

    def batch_statistics(self, epoch: int) -> bool:
        """Whether any layer normalises by the batch in `epoch`, counted from 1."""
        (*_, phase) = (one for one in self._prepared.phases if one.first_epoch < epoch)
        return bool(phase.plan.uses_batch_statistics)

    def enter(self, number: int) -> None:
        """Set the layers' switches for a phase, with its plan and digests in `freeze.json`."""
        model, phases = self._prepared.model, self._prepared.phases
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
            stages, digests = phase.plan.stages(), proof.digests(model)
            kept.append({"first_epoch": phase.first_epoch + 1, "stages": stages, "digests": digests})
            self._keep(kept)
        if number:
            new = set(phase.plan.training_stages) - set(phases[number - 1].plan.training_stages)
            names = [stage for stage in phase.plan.training_stages if stage in new]
            words = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
            self._display.say(f"epoch {phase.first_epoch + 1}: {words} train{'s' if len(names) == 1 else ''} as well")

    def _close(self, kept: list[dict[str, Any]]) -> None:
        """Prove the last phase of `kept`."""
        if "proof" not in kept[-1]:
            model = self._prepared.model
            plan = self._prepared.phases[len(kept) - 1].plan
            self._prepared.apply(plan)  # a run resumed between two phases has not set its switches
            expected = proof.expected_to_change(model, plan)
            proved = proof.prove(kept[-1]["digests"], proof.digests(model), expected)
            # A trainable variable need not change within one phase: for example after the best epoch.
            kept[-1]["proof"] = {
                "holds": not proved.moved_though_frozen,
                "frozen_variables": proved.frozen,
                "moving_variables": proved.moving,
                "moved_though_frozen": list(proved.moved_though_frozen),
            }

    def _kept(self) -> list[dict[str, Any]]:
        return list(self._run.read("freeze.json").get("phases", []))

    def _keep(self, kept: list[dict[str, Any]]) -> None:
        self._run.write("freeze.json", {**self._run.read("freeze.json"), "phases": kept})
