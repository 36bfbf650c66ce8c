"""TF1 graphs with sigmoids, with the name of probabilities, and without BatchNorm: what their own session gives."""

import numpy as np
import pytest
import tensorflow as tf

from finetune.diagnosis.measure import examine
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import count
from finetune.tf_graphs import open_graph
from tests.support.tf1_forms import Form, conv, fused, images, save, switch

v1 = tf.compat.v1
LABELS = np.random.default_rng(0).integers(0, 2, 8)


def network(units, *, activation=None, loss=False, normalised=True, flat=False):
    def build():
        x, training = images(), switch()
        h = conv(x, "a")
        if normalised:
            h = fused(h, training, "bn")
        weights = v1.get_variable("weights", [6, units])
        logits = tf.matmul(tf.reduce_mean(tf.nn.relu(h), [1, 2]), weights, name="logits")
        if flat:
            logits = tf.squeeze(logits, 1)
        if loss:
            v1.losses.sigmoid_cross_entropy(v1.placeholder(tf.float32, [None, units], "labels"), logits)
        end = activation(logits, name="probabilities") if activation else logits
        return Form(x, end, {training: True}, {training: False})

    return build


def opened(folder, build, **options):
    saved = save(folder, build)
    subject = open_graph(saved.meta, **options)
    return saved, subject, np.asarray(subject.forward("moving")(saved.images)[0], np.float64)


@pytest.mark.parametrize("options", [{}, {"logits": "probabilities"}])
@pytest.mark.parametrize("flat", [False, True])
def test_one_sigmoid_is_the_score_of_class_1(tmp_path, options, flat):
    saved, subject, logits = opened(tmp_path, network(1, activation=tf.sigmoid, flat=flat), **options)
    p = saved.false.reshape(-1).astype(np.float64)
    found = count(logits, LABELS)
    assert (subject.outputs, subject.per_label) == (2, False)
    assert found.correct == int(np.sum((p > 0.5) == LABELS))
    assert found.loss == pytest.approx(-np.mean(np.log(np.where(LABELS, p, 1 - p))), abs=1e-5)
    assert any("the second class of the data" in line for line in subject.lines)


@pytest.mark.parametrize("how", [{"activation": tf.sigmoid}, {"loss": True}])
def test_several_sigmoids_are_labels(tmp_path, how):
    saved, subject, logits = opened(tmp_path, network(4, **how))
    p = saved.false if "activation" in how else 1 / (1 + np.exp(-saved.false))
    assert subject.per_label
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), p, atol=1e-6)


def test_the_name_of_a_softmax_is_what_it_is_made_of(tmp_path):
    saved, subject, logits = opened(tmp_path, network(4, activation=tf.nn.softmax), logits="probabilities:0")
    np.testing.assert_allclose(tf.nn.softmax(logits), saved.false, atol=1e-6)
    assert not subject.per_label
    assert any("without its Softmax (probabilities)" in line for line in subject.lines)


def test_a_graph_without_batchnorm_is_evaluated_and_not_examined(tmp_path):
    saved, subject, logits = opened(tmp_path, network(4, normalised=False))
    np.testing.assert_allclose(logits, saved.false, atol=1e-5)
    assert "the graph has no BatchNorm on the way to its logits" in subject.lines
    with pytest.raises(FinetuneError, match="use 'finetune evaluate' for its accuracy"):
        examine(subject, test=None, train=None)
