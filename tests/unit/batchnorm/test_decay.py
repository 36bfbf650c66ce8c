"""The arithmetic of facts anyone can check by hand."""

import pytest

from finetune.batchnorm.decay import auto_decay, residual


@pytest.mark.parametrize(("decay", "updates"), [(0.9, 44), (0.95, 90), (0.97, 152), (0.99, 459), (0.997, 1533)])
def test_updates_until_one_percent(decay, updates):
    assert residual(decay, updates) <= 0.01 < residual(decay, updates - 1)


def test_cifar10_one_epoch_at_batch_128():
    assert [round(residual(decay, 391), 2) for decay in (0.99, 0.997, 0.9997)] == [0.02, 0.31, 0.89]


@pytest.mark.parametrize(
    ("per_epoch", "steps", "expected"),
    [
        (196, 1960, 0.949),
        (391, 3910, 0.9744),
        (782, 7820, 0.9872),
        (50, 5000, 0.9),
        (391, 391, 0.9744),
        (391, 50, 0.912),
    ],
)
def test_auto_decay_follows_the_epoch_and_forgets_the_source(per_epoch, steps, expected):
    assert auto_decay(per_epoch, steps) == pytest.approx(expected, abs=1e-4)
    assert residual(auto_decay(per_epoch, steps), steps) <= 0.0101


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_auto_decay_stays_a_decay_in_very_short_runs(steps):
    assert 0.5 <= auto_decay(steps, steps) < 1
