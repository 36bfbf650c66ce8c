"""Renumberings of the classes: what explains predictions, and what only seems to."""

import numpy as np
import pytest

from finetune.diagnosis import thresholds
from finetune.diagnosis.labels import explain, least_loss
from finetune.evaluation.predictions import predictions_from_logits

CLASSES = 10


def predictions(accuracy, n=2000, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, n)
    wrong = (truth + rng.integers(1, CLASSES, n)) % CLASSES
    return truth, np.where(rng.random(n) < accuracy, truth, wrong)


def test_an_offset_is_found_and_its_sign():
    truth, guesses = predictions(0.8)
    found = explain([((truth + 1) % CLASSES, guesses)], [((truth + 1) % CLASSES, guesses)], CLASSES)
    assert found.offset == -1
    assert found.offset_accuracy == pytest.approx(np.mean(truth == guesses))
    assert found.permuted_accuracy == pytest.approx(found.offset_accuracy)
    assert found.accuracy < 0.1


def test_a_permutation_is_found_and_counted():
    truth, guesses = predictions(0.8)
    swapped = np.where(truth < 4, truth ^ 1, truth)
    found = explain([(swapped, guesses)], [(truth, guesses)], CLASSES)
    assert found.renumbered == 4
    assert found.permuted_accuracy == pytest.approx(np.mean(truth == guesses))
    assert found.train_permuted_accuracy == found.train_accuracy


@pytest.mark.parametrize("classes", [10, 200])
def test_guessing_is_not_explained(classes):
    """Cross-validation: the best renumbering of noise fits what it was fitted on, and nothing else."""
    rng = np.random.default_rng(1)
    scored = (rng.integers(0, classes, 1000), rng.integers(0, classes, 1000))
    found = explain([scored], [scored], classes)
    assert found.permuted_accuracy < 1 / classes + 0.04


def test_confused_classes_and_collapsed_predictions_are_not_renumbered():
    truth, guesses = predictions(0.9)
    confused = np.where((truth == 3) & (guesses == 3), 5, guesses)
    found = explain([(truth, confused)], [(truth, confused)], CLASSES)
    assert found.permuted_accuracy - found.accuracy < 0.02
    one = np.full_like(truth, 7)
    assert explain([(truth, one)], [(truth, one)], CLASSES).permuted_accuracy < 0.15


def test_sorted_images_and_no_prediction_do_not_matter():
    truth, guesses = predictions(0.8)
    order = np.argsort(truth)
    found = explain([((truth[order] + 1) % CLASSES, guesses[order])], [(truth, np.full_like(truth, -1))], CLASSES)
    assert found.permuted_accuracy == pytest.approx(0.8, abs=0.03)
    assert found.train_accuracy == 0.0


def softmax(logits):
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [4, 12])
def test_the_least_loss_is_that_of_the_best_numbering(classes):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, 500)
    logits = rng.normal(size=(500, classes)) + 3 * np.eye(classes)[truth]
    own = -np.log(softmax(logits)[np.arange(500), truth]).mean()
    moved = predictions_from_logits(logits[:, (np.arange(classes) + 1) % classes], truth)
    assert moved.label_log_probability.mean() < -2 * own
    found = least_loss([moved], classes)
    assert found == pytest.approx(own, rel=1e-5 if classes <= 5 else 0.1)  # five probabilities of an image are kept
    as_it_is = predictions_from_logits(logits, truth)
    assert least_loss([moved, as_it_is], classes) == pytest.approx(found, rel=0.02)


def test_a_network_of_few_classes_that_has_learnt_nothing_has_a_numbering_but_not_its_loss():
    """Random features of images that differ in brightness: one answer to each class or two, and none of them sure."""
    truth = np.arange(400) % 4
    logits = 0.3 * np.eye(4)[(truth // 2 + 2) % 4] + np.random.default_rng(0).normal(0, 0.05, (400, 4))
    predicted = predictions_from_logits(logits, truth)
    found = explain([(truth, predicted.classes)], [(truth, predicted.classes)], 4, loss=least_loss([predicted], 4))
    assert found.permuted_accuracy >= thresholds.PLAIN - 0.02 > found.accuracy
    assert found.loss > thresholds.LEARNT * np.log(4)
