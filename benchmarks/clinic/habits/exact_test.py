"""McNemar's exact test and its power, from binomial sums alone: nothing of the product is used here.

Two results on the same images: `gained` images that the second gets right and the first wrong, `lost` the reverse. If
both are equally good, the gained are Binomial(gained + lost, 1/2) (McNemar 1947, in its exact form).
"""

import math
from functools import cache

LEVEL = 0.05
POWER = 0.9


def p_value(gained: int, lost: int) -> float:
    """Two-sided, exact."""
    changed = gained + lost
    tail = sum(math.comb(changed, one) for one in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


@cache
def _critical(changed: int) -> int:
    """The most of the rarer outcome with which the test still rejects; -1 where it never does."""
    tail, least = 0, -1
    for one in range(changed // 2 + 1):
        tail += math.comb(changed, one)
        if 2 * tail > LEVEL * 2**changed:
            break
        least = one
    return least


def power(images: int, gained: float, lost: float) -> float:
    """The probability that the test rejects on so many images, of which a share `gained` is won and `lost` is lost.

    The exact unconditional power: the sum over the number of images that change of its binomial probability times the
    probability that the test rejects then.
    """
    share = gained + lost
    if share <= 0:
        return 0.0
    total, within = 0.0, gained / share
    for changed in range(images + 1):
        weight = _binomial(images, changed, share)
        if weight > 1e-12:
            most = _critical(changed)
            total += weight * sum(
                _binomial(changed, one, within) + _binomial(changed, one, 1 - within) for one in range(most + 1)
            )
    return min(total, 1.0)


def _binomial(n: int, k: int, p: float) -> float:
    if p <= 0 or p >= 1:
        return float(k == (0 if p <= 0 else n))
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    return math.exp(log)


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    if not total:
        return 0.0, 1.0
    z, share = 1.959964, right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(middle - half, 0.0), min(middle + half, 1.0)
