"""Training on features is the training on images: every figure, every weight, interrupted or not."""

import dataclasses

import numpy as np
import pytest

from finetune.errors import WrongUse
from finetune.evaluation.evaluator import Evaluation
from tests.support.small_features import CONFIG, HEAD_ONLY, classifier, generated, trained

pytestmark = pytest.mark.usefixtures("home")


def changed(**values):
    return dataclasses.replace(CONFIG, **values)


PLANS = {
    "head only": {"freeze": HEAD_ONLY},
    "last stage, batch statistics": {"freeze": ("block3=train", "*")},
    "last stage, frozen statistics": {"freeze": ("block3=train", "*"), "bn": ("freeze",)},
    "in the middle of a block": {"freeze": ("conv2=train", "*")},
    "a BatchNorm that follows the batch below": {"freeze": ("*",), "bn": ("bn2=stats", "freeze")},
}


CASES = [
    *((plan, "none") for plan in PLANS),
    ("head only", "flip"),
    pytest.param("last stage, batch statistics", "flip", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("plan", "augment"), CASES)
def test_every_figure_is_that_of_images(plan, augment):
    config = changed(augment=augment)
    images = trained(classifier(**PLANS[plan]), generated(), dataclasses.replace(config, cache_features="off"))
    features = trained(classifier(**PLANS[plan]), generated(), config)
    assert (images.about, features.about["read"]) == (None, 0)
    assert images.losses == pytest.approx(features.losses, rel=1e-5)
    for ours, theirs in zip(features.history, images.history, strict=True):
        assert ours["train_accuracy"] == theirs["train_accuracy"]
        assert ours["validation_accuracy"] == theirs["validation_accuracy"]
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-5)
    for mode, theirs in images.test.items():
        assert isinstance(theirs, Evaluation)
        assert features.test[mode].correct == theirs.correct
        assert features.test[mode].loss == pytest.approx(theirs.loss, rel=1e-5)
    assert images.history[-1]["train_loss"] < 0.9 * np.log(3)  # something is learnt
    assert images.test["moving"].loss != pytest.approx(images.test["batch"].loss, rel=1e-3)
    for ours, theirs in zip(features.weights, images.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_second_run_computes_nothing_and_gives_the_same_bits():
    first, second = (trained(classifier(), generated(), CONFIG) for _ in range(2))
    # 100 + 20 + 30 images, and the test images again in two batches of 16.
    assert (first.about["computed"], first.about["read"]) == (182, 0)
    assert (second.about["computed"], second.about["read"]) == (0, 182)
    assert second.losses == first.losses
    assert second.test == first.test
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [True, False])
def test_in_memory_or_from_the_disk_is_the_same(monkeypatch, in_memory):
    from finetune.training.feature_cache import preparing

    reference = trained(classifier(), generated(), CONFIG)
    monkeypatch.setattr(preparing, "_IN_MEMORY", 2**30 if in_memory else 0)
    outcome = trained(classifier(), generated(), CONFIG)
    assert outcome.about["in_memory"] == in_memory
    assert outcome.losses == reference.losses


@pytest.mark.slow
def test_float16_takes_half_the_space_and_differs_a_little():
    exact = trained(classifier(), generated(), CONFIG)
    half = trained(classifier(), generated(), changed(cache_precision="float16"))
    assert half.about["bytes"] * 2 == exact.about["bytes"]
    assert half.losses != exact.losses
    assert half.losses == pytest.approx(exact.losses, rel=2e-3)


def test_what_does_not_fit_float16_is_refused():
    model = classifier()
    model.get_layer("bn3").gamma.assign(np.full(24, 1e6))
    with pytest.raises(WrongUse, match=r"--cache-precision float16: .* exceed 65504"):
        trained(model, generated(), changed(cache_precision="float16"))
