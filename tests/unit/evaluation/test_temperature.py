"""Temperature scaling against SciPy's minimiser in float64; the calibration error against sums written out by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from finetune.evaluation.temperature import calibration_at, fit_temperature, probabilities_at


def overconfident(images: int = 400, classes: int = 6, factor: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `factor` times those from whose softmax the labels are drawn, float32."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (images, classes))
    labels = np.array([rng.choice(classes, p=row) for row in softmax(logits, axis=1)])
    return (factor * logits).astype(np.float32), labels


def loss(temperature: float, logits: np.ndarray, labels: np.ndarray) -> float:
    return -log_softmax(logits.astype(np.float64) / temperature, axis=1)[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0, 40.0])
def test_it_is_where_scipy_finds_the_smallest_loss(factor):
    logits, labels = overconfident(factor=factor)
    best = minimize_scalar(
        lambda log: loss(np.exp(log), logits, labels), bounds=(-6, 6), method="bounded", options={"xatol": 1e-10}
    )
    found = fit_temperature(logits, labels)
    assert found.temperature == pytest.approx(np.exp(best.x), rel=1e-6)
    assert found.temperature == pytest.approx(factor, rel=0.15)  # the labels were drawn so
    assert found.loss_before == pytest.approx(loss(1, logits, labels), rel=1e-12)
    assert found.loss_after == pytest.approx(best.fun, rel=1e-12)
    assert (found.images, found.remark) == (400, "")


def test_a_constant_added_to_an_image_s_logits_changes_nothing():
    logits, labels = overconfident()
    shifted = logits + np.random.default_rng(1).normal(0, 50, (len(labels), 1))
    assert fit_temperature(shifted, labels).temperature == pytest.approx(fit_temperature(logits, labels).temperature)


def test_where_no_temperature_is_the_best_it_stays_1():
    logits, _ = overconfident()
    right = fit_temperature(logits, logits.argmax(axis=1))
    wrong = fit_temperature(logits, logits.argmin(axis=1))
    lost = fit_temperature(np.full((3, 2), np.nan), np.array([0, 1, 1]))
    assert [one.temperature for one in (right, wrong, lost)] == [1, 1, 1]
    assert "classified correctly" in right.remark
    assert "no better than by chance" in wrong.remark
    assert "finite" in lost.remark
    assert right.loss_after == right.loss_before == pytest.approx(loss(1, logits, logits.argmax(axis=1)))


def test_images_without_finite_logits_are_left_out():
    logits, labels = overconfident()
    more = np.concatenate([logits, [[np.nan] * 6, [np.inf] * 6]]).astype(np.float32)
    found = fit_temperature(more, np.append(labels, [0, 1]))
    assert found == fit_temperature(logits, labels)
    assert not probabilities_at(more, 2.0)[-2:].any()


@pytest.mark.parametrize("temperature", [1.0, 2.7])
def test_the_calibration_error_by_hand(temperature):
    """Guo et al. 2017, equations 2, 3 and 5, with 15 bins, image by image."""
    logits, labels = overconfident()
    chances = softmax(logits.astype(np.float64) / temperature, axis=1)
    expected = 0.0
    for m in range(15):
        inside = [i for i, row in enumerate(chances) if m / 15 < row.max() <= (m + 1) / 15]
        if inside:
            accuracy = sum(int(chances[i].argmax() == labels[i]) for i in inside) / len(inside)
            confidence = sum(chances[i].max() for i in inside) / len(inside)
            expected += len(inside) / len(labels) * abs(accuracy - confidence)
    found = calibration_at(logits, labels, temperature)
    assert found["expected_error"] == pytest.approx(expected, rel=1e-9)
    assert found["loss"] == pytest.approx(loss(temperature, logits, labels), rel=1e-12)
    assert sum(one["images"] for one in found["bins"]) == len(labels)
    np.testing.assert_allclose(probabilities_at(logits, temperature), chances, atol=1e-7)


def test_it_makes_overconfident_logits_calibrated():
    logits, labels = overconfident(images=3000)
    fitted = fit_temperature(logits[:1500], labels[:1500])
    before, after = (calibration_at(logits[1500:], labels[1500:], one) for one in (1.0, fitted.temperature))
    assert before["expected_error"] > 0.2
    assert after["expected_error"] < 0.05
