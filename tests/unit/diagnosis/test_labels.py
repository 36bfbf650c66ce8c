"""Renumberings of the classes: what explains predictions, and what only seems to."""

import numpy as np
import pytest

from finetune.diagnosis.labels import explain

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
