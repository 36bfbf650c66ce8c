"""Gradual unfreezing: which stages train in which epochs. Pure."""

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
    """The head alone, then with ever more stages from the top, and from epoch `over` on all that `plan` trains (after
    Howard & Ruder 2018, section 3.3, who add one layer an epoch).

    The stages come in as many equal groups as there are epochs to add them in, the first of which is the head's alone;
    a network of few stages takes several epochs for each. `locking` gives the plan under which some stages are frozen.
    Every plan but the last is thus part of the next one. The last one is `plan` itself, with `opens`.
    Raises WrongUse where nothing but the head trains.
    """
    stages = [stage for stage in plan.training_stages if stage != HEAD][::-1]
    if not stages:
        raise WrongUse(
            "nothing but the head trains, so that there is nothing to unfreeze: leave out --unfreeze-epochs and "
            "--preset gradual, or freeze less"
        )
    steps = min(len(stages), over)
    first = [number * over // steps for number in range(steps)] + [over]
    # Stages number k * n / steps to (k + 1) * n / steps, from the top, open with phase k + 1.
    opens = {stage: first[place * steps // len(stages) + 1] for place, stage in enumerate(stages)}
    opened = [locking([stage for stage in stages if opens[stage] > epoch]) for epoch in first[:-1]]
    whole = replace(plan, opens=opens)
    return tuple(Phase(epoch, one) for epoch, one in zip(first, [*opened, whole], strict=True))
