"""Optuna on the trials of a batch. Imported only where a search asks for it.

A study is built from the trials' own files whenever something is asked of it, which takes milliseconds. So it cannot
contradict them, whenever the batch was killed.
"""

import random
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from finetune.batch.search_space import Choices, Interval, Space
from finetune.batch.status import JobStatus

optuna.logging.set_verbosity(optuna.logging.WARNING)

_STATES = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
"""Of every other trial the result is to come."""
STARTUP = 5
"""Finished trials before the median of their epochs means something."""


def suggest(space: Space, trials: Sequence[JobStatus], *, seed: int, number: int) -> dict[str, Any]:
    """The settings that TPE proposes for trial `number` after `trials`, a function of the arguments alone."""
    own = random.Random(f"{seed} {number}").getrandbits(32)  # else a resumed search would draw the same numbers again
    study = _study(space, trials, optuna.samplers.TPESampler(seed=own))
    params = study.ask(_distributions(space)).params
    return {name: one.decode(params[name]) for name, one in space.items()}


def is_pruned(space: Space, trial: JobStatus, trials: Sequence[JobStatus]) -> bool:
    """Whether the best epoch of `trial` so far is worse than the median of the finished ones among `trials` at the same
    epoch. Never after its first epoch, and never before STARTUP trials have finished."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=2)
    return pruner.prune(_study(space, trials), _trial(space, trial))


def importance(space: Space, trials: Sequence[JobStatus]) -> dict[str, float] | None:
    """By PED-ANOVA (Watanabe et al. 2023), the share of each setting in what tells the best trials from the others, the
    largest first; None unless at least two trials are done and their scores differ."""
    done = [one for one in trials if one.state == "done"]
    if len({one.score for one in done}) < 2:
        return None
    study = _study(space, done)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return {
        name: float(share)
        for name, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


def _study(
    space: Space, trials: Sequence[JobStatus], sampler: optuna.samplers.BaseSampler | None = None
) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_trial(space, one) for one in trials])
    return study


def _trial(space: Space, status: JobStatus) -> FrozenTrial:
    done = status.state == "done"
    return create_trial(
        state=_STATES.get(status.state, TrialState.RUNNING),
        params={name: one.encode(getattr(status.job.config, name)) for name, one in space.items()},
        distributions=_distributions(space),
        value=status.score if done else None,
        intermediate_values=dict(status.scores),
    )


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    return {name: _distribution(one) for name, one in space.items()}


def _distribution(one: Interval | Choices) -> BaseDistribution:
    if isinstance(one, Choices):
        return CategoricalDistribution(tuple(range(len(one.values))))
    if one.step is not None:
        return IntDistribution(0, one.steps)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)
