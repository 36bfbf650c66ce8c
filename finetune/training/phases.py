"""A run in memory, and its phases: which layers train in which epochs. Gradual unfreezing has several of them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import keras

from finetune.backbone import Backbone, freezing
from finetune.backbone.freezing import HEAD, FreezePlan
from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.dataset import Dataset
from finetune.errors import WrongUse


@dataclass(frozen=True)
class Phase:
    """Epochs with one plan: from `first_epoch`, counted from 0, until the next phase."""

    first_epoch: int
    plan: FreezePlan


@dataclass(frozen=True, eq=False)
class Prepared:
    """A completed config with its data, and a model whose switches are set as the plan says."""

    config: RunConfig
    dataset: Dataset
    backbone: Backbone
    model: keras.Model
    phases: tuple[Phase, ...]

    @property
    def plan(self) -> FreezePlan:
        """Of the last phase: what changes at any time of the run changes there."""
        return self.phases[-1].plan

    @property
    def rates(self) -> dict[str, float]:
        """What multiplies the learning rate of each variable, by its path; empty where all are equal."""
        return freezing.rates_by_variable(self.model, self.plan)

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of an epoch."""
        return batches.steps_per_epoch(self.dataset.train, self.config)

    @property
    def parts_per_step(self) -> int:
        """Microbatches of a step: each updates the moving statistics."""
        return batches.parts_per_step(self.dataset.train, self.config)

    @property
    def last_phase_steps(self) -> int:
        """Steps of the last phase: every trainable layer trains for at least so many."""
        return self.steps_per_epoch * ((self.config.epochs or 0) - self.phases[-1].first_epoch)

    def apply(self, plan: FreezePlan) -> None:
        """Set the layers' switches as `plan`, of one of the phases, says."""
        config, updates = self.config, self.last_phase_steps * self.parts_per_step
        freezing.apply(self.model, plan, decay=float(config.bn_decay), updates=config.bn_updates == "on", steps=updates)

    def plan_of(self, epoch: int) -> FreezePlan:
        """The plan of an epoch, counted from 1."""
        return [phase.plan for phase in self.phases if phase.first_epoch < epoch][-1]

    def updates(self, epochs: int) -> int:
        """How many updates the moving statistics have had after `epochs` epochs: the fewest of any layer that updates
        then; 0 where none does."""
        if self.config.bn_updates == "off" or epochs == 0:
            return 0
        plans = [self.plan_of(epoch) for epoch in range(1, epochs + 1)]
        updating = [{one.layer.name for one in plan.layers if one.bn is not None and one.bn.updates} for plan in plans]
        fewest = min((sum(name in names for names in updating) for name in updating[-1]), default=0)
        return fewest * self.steps_per_epoch * self.parts_per_step


def gradual(plan: FreezePlan, locking: Callable[[Collection[str]], FreezePlan], *, over: int) -> tuple[Phase, ...]:
    """First the head trains, then more and more stages from the top, and from epoch `over` on all that `plan` trains.

    After Howard & Ruder 2018, section 3.3, who add one layer an epoch. The stages are divided into equal groups, one
    for each epoch after the head's; a network of few stages takes several epochs for each. `locking` returns the plan
    under which some stages are frozen. The last plan is `plan` itself, with `opens`.
    Raises WrongUse where only the head trains.
    """
    stages = [stage for stage in plan.training_stages if stage != HEAD][::-1]
    if not stages:
        raise WrongUse(
            "only the head trains, so there is nothing to unfreeze: leave out --unfreeze-epochs and "
            "--preset gradual, or freeze less"
        )
    steps = min(len(stages), over)
    first = [number * over // steps for number in range(steps)] + [over]
    # Stages number k * n / steps to (k + 1) * n / steps, from the top, open with phase k + 1.
    opens = {stage: first[place * steps // len(stages) + 1] for place, stage in enumerate(stages)}
    opened = [locking([stage for stage in stages if opens[stage] > epoch]) for epoch in first[:-1]]
    return tuple(map(Phase, first, [*opened, replace(plan, opens=opens)]))
