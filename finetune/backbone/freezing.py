"""What trains and which statistics each layer uses: ordered rules over layer names, resolved before training.

Freeze rules decide first, BN rules last; a BN layer that no BN rule names follows its freeze rule.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import keras

from finetune.batchnorm.layer import BatchNorm
from finetune.batchnorm.policy import POLICIES, BNPolicy, Rule
from finetune.batchnorm.surgery import is_bn, parts
from finetune.errors import WrongUse

HEAD = "head"
"""The stage of the new head's layers. No freeze rule reaches them: a head that does not train is no transfer."""


@dataclass(frozen=True)
class LayerInfo:
    """A layer that has variables. `name` is the Keras name, `scope` the root scope patterns may leave out."""

    name: str
    stage: str
    is_bn: bool
    scope: str = ""

    @property
    def display(self) -> str:
        """The name as the user reads and writes it: slim's scope, with slashes."""
        return self.name.replace(".", "/")

    @property
    def aliases(self) -> tuple[str, ...]:
        """What a pattern is compared with: `scope/name`, `name`, `stage/scope/name`, `stage/name`."""
        short = self.display.removeprefix(self.scope + "/") if self.scope else self.display
        return (self.display, short, f"{self.stage}/{self.display}", f"{self.stage}/{short}")

    def matches(self, pattern: str) -> bool:
        """fnmatch over the aliases; a bare name stands for everything below it as well."""
        return any(fnmatchcase(alias, pattern) or fnmatchcase(alias, pattern + "/*") for alias in self.aliases)


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer: whether its weights train, and for BN the policy instead."""

    layer: LayerInfo
    trains: bool
    bn: BNPolicy | None


@dataclass(frozen=True)
class FreezePlan:
    """The resolved rules, a line per layer that has variables, in the model's order.

    rates: stage -> what multiplies its learning rate; empty where all stages have the same.
    opens: stage -> the epoch, from 0, at which it begins to train; empty where all do at once.
    """

    layers: tuple[LayerPlan, ...]
    rates: Mapping[str, float] = field(default_factory=dict)
    opens: Mapping[str, int] = field(default_factory=dict)

    def stages(self) -> list[dict[str, Any]]:
        """One row per stage: how many layers train, how many BN layers there are and under which policies; with
        `rates` also what multiplies its learning rate, with `opens` the epoch, from 1, at which it begins to train:
        None where nothing trains."""
        rows: dict[str, dict[str, Any]] = {}
        for plan in self.layers:
            row = rows.setdefault(plan.layer.stage, {"stage": plan.layer.stage, "layers": 0, "training": 0, "bn": {}})
            if plan.bn is None:
                row["layers"] += 1
                row["training"] += plan.trains
            else:
                row["bn"][plan.bn.name] = row["bn"].get(plan.bn.name, 0) + 1
        training = self.training_stages
        for stage, row in rows.items():
            if self.rates:
                row["learning_rate"] = self.rates[stage] if stage in training else None
            if self.opens:
                row["from_epoch"] = self.opens.get(stage, 0) + 1 if stage in training else None
        return list(rows.values())

    @property
    def training_stages(self) -> list[str]:
        """Those in which a weight trains or a statistic updates, from the input to the head."""
        moving = (plan.layer.stage for plan in self.layers if plan.trains or (plan.bn is not None and plan.bn.updates))
        return list(dict.fromkeys(moving))

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether any layer normalises by batch statistics in training."""
        return any(plan.bn is not None and plan.bn.statistics == "batch" for plan in self.layers)


def resolve(
    layers: Sequence[LayerInfo],
    *,
    freeze: Sequence[Rule] = (),
    freeze_until: str | None = None,
    bn: Sequence[Rule] = (),
    layer_decay: float | None = None,
    locked: Collection[str] = (),
) -> FreezePlan:
    """The plan for `layers`. Raises WrongUse for an unknown stage or a pattern that matches nothing.

    `layer_decay` multiplies the learning rate once for every stage from the top: the head's is kept, the top stage's
    is multiplied by it, the next one's by its square (BEiT, Bao et al. 2022, appendix; the discriminative rates of
    ULMFiT, Howard & Ruder 2018, section 3.2, there 1/2.6). The stages `locked` are frozen whatever the freeze rules
    say; BN rules stand above that too.
    """
    backbone = [layer for layer in layers if layer.stage != HEAD]
    stages = list(dict.fromkeys(layer.stage for layer in backbone))
    frozen_stages: set[str] = set()
    if freeze_until is not None:
        if freeze_until not in stages:
            raise WrongUse(f"unknown stage '{freeze_until}' in --freeze-until: expected one of {', '.join(stages)}")
        frozen_stages = set(stages[: stages.index(freeze_until) + 1])
    _check_matches(freeze, backbone, stages, option="--freeze")
    _check_matches(bn, [layer for layer in layers if layer.is_bn], stages, option="--bn")

    plans = []
    for layer in layers:
        decision = "train" if layer.stage == HEAD else _first_match(freeze, layer)
        trains = decision == "train" if decision else layer.stage not in frozen_stages
        trains = trains and layer.stage not in locked
        policy = None
        if layer.is_bn:
            policy = POLICIES[_first_match(bn, layer) or ("train" if trains else "freeze")]
            trains = policy.affine
        plans.append(LayerPlan(layer, trains, policy))
    rates = {}
    if layer_decay is not None:
        rates = {stage: layer_decay**above for above, stage in enumerate(reversed(stages), start=1)} | {HEAD: 1.0}
    return FreezePlan(tuple(plans), rates)


def parse_freeze_rule(text: str) -> Rule:
    """`PATTERN` freezes what it matches; `PATTERN=train` keeps it training where a later rule would freeze it."""
    pattern, separator, decision = text.rpartition("=")
    if not separator:
        return Rule(text, "freeze")
    if decision not in ("freeze", "train"):
        raise WrongUse(f"unknown decision '{decision}' in --freeze '{text}': expected PATTERN, or PATTERN=train")
    if not pattern:
        raise WrongUse(f"--freeze '{text}' has no pattern before '=': give PATTERN or PATTERN=train, with '*' for all")
    return Rule(pattern, decision)


def layer_infos(model: keras.Model, stages: dict[str, list[str]], scope: str) -> list[LayerInfo]:
    """Every layer of `model` that has variables; `stages` maps stage to layer names, the rest is the head."""
    stage_of = {name: stage for stage, names in stages.items() for name in names}
    return [
        LayerInfo(layer.name, stage_of.get(layer.name, HEAD), is_bn(layer), scope)
        for layer in parts(model)
        if layer.weights
    ]


def apply(
    model: keras.Model, plan: FreezePlan, *, decay: float | None, updates: bool, steps: int | None = None
) -> None:
    """Set every layer's switches: `trainable`, and for BN what normalises, whether it updates, and its decay.

    `decay` None keeps each layer's own. `updates=False` reproduces a training loop that never runs UPDATE_OPS.
    `steps` is the length of the run, for batch renormalisation's schedule. Takes effect in steps traced afterwards
    only.
    """
    named = {part.name: part for part in parts(model)}
    for layer_plan in plan.layers:
        layer = named[layer_plan.layer.name]
        layer.trainable = layer_plan.trains
        if layer_plan.bn is not None:
            layer.statistics = layer_plan.bn.statistics
            layer.updates = layer_plan.bn.updates and updates
            if decay is not None:
                layer.momentum = decay
            if isinstance(layer, BatchNorm):
                layer.run_steps = steps


def rates_by_variable(model: keras.Model, plan: FreezePlan) -> dict[str, float]:
    """Path of each variable -> what multiplies its learning rate; empty where all have the same."""
    if not plan.rates:
        return {}
    stage_of = {layer_plan.layer.name: layer_plan.layer.stage for layer_plan in plan.layers}
    return {
        variable.path: plan.rates[stage_of[part.name]]
        for part in parts(model)
        if part.name in stage_of
        for variable in part.weights
    }


def _first_match(rules: Sequence[Rule], layer: LayerInfo) -> str | None:
    """The decision of the first rule that matches a layer, None where none does."""
    return next((rule.decision for rule in rules if layer.matches(rule.pattern)), None)


def _check_matches(rules: Sequence[Rule], layers: Sequence[LayerInfo], stages: list[str], *, option: str) -> None:
    """Raise WrongUse for a pattern other than '*' that matches none of `layers`."""
    for rule in rules:
        if rule.pattern != "*" and not any(layer.matches(rule.pattern) for layer in layers):
            examples = ", ".join(layer.display for layer in layers[:2])
            kind = "BN layer" if option == "--bn" else "layer"
            raise WrongUse(
                f"{option} pattern '{rule.pattern}' matches no {kind}: expected one of "
                f"the stages {', '.join(stages)}, or a pattern over layer names such as {examples}"
            )
