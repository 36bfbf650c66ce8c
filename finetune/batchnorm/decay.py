"""Arithmetic of the moving average: the share of the initial value that remains, and a decay for small data sets."""

import math

FEW_UPDATES = 100
"""With fewer updates, no decay both forgets the source and averages enough batches: recalibrate at the end."""


def residual(decay: float, updates: int, *, zero_debias: bool = False) -> float:
    """Share of the initial statistics that remains after n updates: decay^n, in [0, 1].

    `zero_debias`: that of a zero-debiased moving mean, which is 0 after the first update.
    """
    return float(updates == 0) if zero_debias else decay**updates


def auto_decay(steps_per_epoch: int, steps: int) -> float:
    """The decay for a run of `steps` updates.

    It is max(1 - 10/s, 0.9) with s steps per epoch (Kornblith et al. 2019, restated in SimCLR, appendix B.8), lowered
    if that would leave more than 1 % of the source statistics at the end of the run, but at least 0.5.
    """
    follows = max(1.0 - 10.0 / max(steps_per_epoch, 1), 0.9)
    forgets = math.pow(0.01, 1.0 / max(steps, 1))
    return round(max(min(follows, forgets), 0.5), 4)
