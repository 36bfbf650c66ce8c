"""How often a verdict is right: the chance that the figures show what they seem to, times the record of its rules."""

from statistics import NormalDist

from finetune.diagnosis import thresholds
from finetune.diagnosis.rules.rule import Basis, Finding, Reading

RELIABILITY: dict[Basis, float] = {
    "exact": 0.98, "records": 0.98, "tried": 0.87, "fitted": 0.94, "excluded": 0.98, "left over": 0.75
}  # fmt: skip
"""The share of right verdicts among those that stand on each kind of evidence, where the figures leave no doubt.

Measured as (right + 1) / (verdicts + 2) on models by which no rule was set: the held-out recipes of
`benchmarks/clinic/README.md`, when they were first seen.
"""


def confidence(seen: Reading, found: Finding) -> float:
    """The probability that `found` is the cause, in [0, 1]; of an undetermined verdict, of its likelier half."""
    gain, noise = seen.gain, NormalDist()
    error = max(gain.standard_error, 1e-9)
    harmless = noise.cdf((thresholds.MARGIN - gain.estimate) / error)
    if found.cause == "undetermined":
        ill = 1 - noise.cdf((thresholds.LEAST_GAP - gain.estimate) / error)
        return round(max(ill, 1 - ill), 3)
    helped = noise.cdf(gain.estimate / error)
    shown = helped if seen.cured else harmless
    return round(RELIABILITY[found.basis] * (1.0 if found.basis == "tried" else shown), 3)
