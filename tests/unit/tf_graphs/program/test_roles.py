"""Which tensors are offered as logits where no loss shows them."""

import pytest
import tensorflow as tf

from finetune.errors import FinetuneError
from finetune.tf_graphs import open_graph
from tests.support.tf1_forms import Form, conv, fused, images, save, switch, v1


def of_heads(*names):
    """A training graph with a hinge loss, metrics and a summary, and heads of 3 classes of these names."""

    def build():
        x, y, training = images(), v1.placeholder(tf.float32, [None, 3], "y"), switch()
        h = tf.nn.relu(fused(conv(x, "a"), training, "a"))
        losses = []
        for depth, name in enumerate(names):
            if depth:
                h = tf.nn.relu(fused(conv(h, f"more{depth}"), training, f"more{depth}"))
            weights, bias = v1.get_variable(f"{name}/w", [6, 3]), v1.get_variable(f"{name}/b", [3])
            logits = tf.nn.bias_add(tf.matmul(tf.reduce_mean(h, [1, 2]), weights), bias, name=f"{name}/logits")
            losses.append(tf.reduce_mean(tf.nn.relu(1 - logits * y)) + 1e-4 * tf.nn.l2_loss(weights))
        v1.metrics.mean(tf.abs(logits - y))
        v1.train.AdamOptimizer().minimize(tf.add_n(losses))
        v1.summary.scalar("loss", losses[0])
        return Form(x, logits, {training: True}, {training: False})

    return build


@pytest.mark.slow
def test_the_last_layer_is_found_without_a_loss_that_is_known(tmp_path):
    subject = open_graph(save(tmp_path, of_heads("main"), run=False).meta)
    assert "logits main/logits:0: what the graph ends with" in subject.facts.lines


def test_only_outputs_of_the_forward_pass_are_offered_the_deepest_first(tmp_path):
    saved = save(tmp_path, of_heads("aux", "main"), run=False)
    with pytest.raises(FinetuneError) as raised:
        open_graph(saved.meta)
    assert str(raised.value) == (
        "the graph has 2 tensors that may be the logits, the likeliest first: main/logits:0 (float32 [?, 3]), "
        "aux/logits:0 (float32 [?, 3]). Choose one with --logits, as in --logits main/logits:0"
    )
    assert open_graph(saved.meta, logits="main/logits:0").outputs == 3
