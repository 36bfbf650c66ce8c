"""Outputs of every kind of head become logits whose cross-entropy is the one Keras computes of the outputs."""

import keras
import numpy as np
import pytest

from finetune.batchnorm.scores import Scores
from finetune.evaluation.evaluator import count
from finetune.evaluation.predictions import log_probabilities

RNG = np.random.default_rng(0)
RAW, LABELS = RNG.normal(0, 2, (40, 5)).astype(np.float32), RNG.integers(0, 5, 40)


@pytest.mark.parametrize("probabilities", [False, True])
def test_one_unit_is_the_score_of_class_1(probabilities):
    z, labels = RAW[:, :1], LABELS % 2
    p = np.asarray(keras.ops.sigmoid(z))
    scored = count(np.asarray(Scores(1, probabilities=probabilities).logits(p if probabilities else z)), labels)
    assert scored.correct == int(np.sum((p[:, 0] > 0.5) == labels))
    expected = float(np.mean(keras.losses.binary_crossentropy(labels[:, None].astype(float), p)))
    assert scored.loss == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("per_label", [False, True])
def test_logits_of_probabilities_give_the_probabilities(per_label):
    p = np.asarray(keras.ops.sigmoid(RAW) if per_label else keras.ops.softmax(RAW))
    logits = np.asarray(Scores(5, probabilities=True, per_label=per_label).logits(p)).astype(np.float64)
    np.testing.assert_allclose(np.exp(log_probabilities(logits, per_label=per_label)), p, atol=1e-6)


def test_a_certain_and_wrong_probability_costs_what_keras_says():
    p = np.array([[1.0, 0.0], [0.25, 0.75]], np.float32)
    scored = count(np.asarray(Scores(2, probabilities=True).logits(p)), np.array([1, 1]))
    expected = float(np.mean(keras.losses.sparse_categorical_crossentropy(np.array([1, 1]), p)))
    assert scored.loss == pytest.approx(expected, abs=1e-5)
