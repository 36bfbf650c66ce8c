"""Drift in sigmas, the spread of batch means, and the share of the start that is left."""

import numpy as np
import pytest

from finetune.batchnorm.statistics import Moments
from finetune.batchnorm.subject import BNInfo
from finetune.diagnosis.drift import drift, initial, share_left

RNG = np.random.default_rng(0)
LAYER = BNInfo("scope.bn", 0.0)


def pooled(mean, variance, batches=1, between=0.0):
    return Moments(10.0 * batches, np.asarray(mean), np.asarray(variance), batches, between)


def test_drift_compares_with_the_source_bit_by_bit():
    zero, one = np.zeros(2, np.float32), np.ones(2, np.float32)
    data = pooled([2.0, 0.0], [4.0, 1.0])
    layer = drift(LAYER, (zero, one), data, source=(zero, one))
    assert layer.name == "scope/bn"
    assert layer.mean_shift == pytest.approx(np.sqrt(0.5))
    assert layer.log_variance_ratio == pytest.approx(np.log(4) / np.sqrt(2))
    assert layer.variance_bias == pytest.approx(-np.log(4) / 2)
    assert layer.at_initial
    assert layer.at_source
    assert layer.batch_noise is None
    moved = drift(LAYER, (zero, np.nextafter(one, 2)), data, source=(zero, one))
    assert not moved.at_initial
    assert not moved.at_source
    assert not drift(LAYER, (zero, one * np.nan), data).finite
    assert drift(LAYER, (zero, -one), data).negative


def test_dead_gamma_and_dead_channels():
    layer = BNInfo("x", 1e-3, gamma=np.array([0.0, 1.0]), beta=np.array([0.0, np.nan]))
    found = drift(layer, initial(layer, (np.zeros(2), np.ones(2))), pooled([1.0, 1.0], [0.0, 1.0]))
    assert (found.dead_gamma, found.dead_channels, found.weights_finite) == (0.5, 0.5, False)
    assert np.isfinite(found.mean_shift)


def test_the_spread_of_batch_means_is_numpys():
    values = RNG.normal(5, 2, (40, 30, 3)) + RNG.normal(0, 1, (40, 1, 3))
    parts = [Moments(30, batch.mean(0), batch.var(0)) for batch in values]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    np.testing.assert_allclose(whole.batch_spread, values.mean(1).std(0, ddof=1), rtol=1e-10)
    np.testing.assert_allclose(whole.variance, values.reshape(-1, 3).var(0), rtol=1e-12)
    assert whole.batches == 40


@pytest.mark.parametrize("share", [0.0, 0.31, 1.0, -0.2])
def test_the_share_left_is_recovered_from_the_arrays(share):
    data = [pooled(RNG.normal(0, 1, 16), RNG.uniform(0.01, 30, 16)) for _ in range(3)]
    start = [(RNG.normal(0, 1, 16), RNG.uniform(0.01, 30, 16)) for _ in range(3)]
    mixed = [
        (share * s[0] + (1 - share) * d.mean, share * s[1] + (1 - share) * d.variance)
        for s, d in zip(start, data, strict=True)
    ]
    found = share_left("source", [LAYER] * 3, mixed, data, start)
    assert found.share == pytest.approx(share, abs=1e-9)
    assert found.residual < 1e-9


def test_noise_does_not_lie_on_the_line_and_an_unknown_start_gives_no_share():
    data = [pooled(np.zeros(500), np.ones(500))]
    start = [(RNG.normal(0, 1, 500), np.ones(500))]
    noise = [(RNG.normal(0, 1, 500), np.ones(500))]
    found = share_left("source", [LAYER], noise, data, start)
    assert abs(found.share) < 0.2
    assert found.residual > 0.8
    assert share_left("source", [LAYER], noise, data, [None]) is None
    assert share_left("source", [LAYER], noise, data, [(np.zeros(500), np.ones(500))]) is None
