"""McNemar's exact test of the clinic equals SciPy's binomial test, and its power equals counting every outcome."""

from itertools import product

import pytest
from scipy.stats import binomtest

from benchmarks.clinic.habits.exact_test import LEVEL, p_value, power, wilson


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (6, 0), (3, 9), (40, 20), (7, 7)])
def test_the_p_value_is_scipys(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert p_value(gained, lost) == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("gained", "lost"), [(0.6, 0.0), (0.5, 0.1), (0.2, 0.2)])
def test_the_power_is_that_of_every_outcome_counted(gained: float, lost: float) -> None:
    images, found = 7, 0.0
    shares = {"gained": gained, "lost": lost, "same": 1 - gained - lost}
    for outcome in product(shares, repeat=images):
        if binomtest(outcome.count("gained"), max(images - outcome.count("same"), 1)).pvalue <= LEVEL and (
            outcome.count("gained") + outcome.count("lost")
        ):
            weight = 1.0
            for one in outcome:
                weight *= shares[one]
            found += weight
    assert power(images, gained, lost) == pytest.approx(found, abs=1e-9)


def test_the_power_rises_with_the_images_and_is_the_level_at_most_without_a_gap() -> None:
    assert power(100, 0.05, 0.0) < power(200, 0.05, 0.0) < power(1000, 0.05, 0.0)
    assert power(1000, 0.05, 0.0) > 0.999
    assert power(1000, 0.05, 0.05) <= LEVEL
    assert power(100, 0.0, 0.0) == 0


def test_wilsons_interval() -> None:
    """Newcombe 1998, table I: 81 of 263 and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
