"""Gradual unfreezing: which stages train in which epochs. A pure function of the plan."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from finetune.backbone.freezing import HEAD, FreezePlan
from finetune.errors import WrongUse


@dataclass(frozen=True)
class Phase:
    """Epochs with one plan: from `first_epoch`, counted from 0, until the next phase."""

    first_epoch: int
    plan: FreezePlan


def phases(plan: FreezePlan, locking: Callable[[Collection[str]], FreezePlan], *, over: int) -> tuple[Phase, ...]:
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
    whole = replace(plan, opens=opens)
    return tuple(Phase(epoch, one) for epoch, one in zip(first, [*opened, whole], strict=True))
