"""The named BN policies, and the rules that assign them to layers. No TensorFlow."""

from dataclasses import dataclass
from typing import Literal

from finetune.errors import WrongUse
from finetune.text import did_you_mean


@dataclass(frozen=True)
class BNPolicy:
    """Three switches: which statistics normalise in training, whether they update, whether gamma and beta train."""

    name: str
    statistics: Literal["batch", "moving"]
    updates: bool
    affine: bool


POLICIES: dict[str, BNPolicy] = {
    policy.name: policy
    for policy in (
        BNPolicy("train", statistics="batch", updates=True, affine=True),
        BNPolicy("freeze", statistics="moving", updates=False, affine=False),
        BNPolicy("affine", statistics="moving", updates=False, affine=True),
        BNPolicy("stats", statistics="batch", updates=True, affine=False),
    )
}


@dataclass(frozen=True)
class Rule:
    """A pattern over layer names and its decision. Rules are tried in order, and the first that matches applies."""

    pattern: str
    decision: str


def parse_bn_rule(text: str) -> Rule:
    """The rule of `[PATTERN=]POLICY`; without a pattern it applies to every BN layer.

    Raises WrongUse if the policy is not one of `POLICIES`, or the pattern before "=" is empty.
    """
    pattern, separator, policy = text.rpartition("=")
    if separator and not pattern:
        raise WrongUse(f"--bn '{text}' has no pattern before '=': give PATTERN=POLICY, or POLICY for every BN layer")
    if policy not in POLICIES:
        hint = did_you_mean(policy, POLICIES)
        raise WrongUse(f"unknown BN policy '{policy}' in --bn '{text}': {hint}expected [PATTERN=]{'|'.join(POLICIES)}")
    return Rule(pattern or "*", policy)
