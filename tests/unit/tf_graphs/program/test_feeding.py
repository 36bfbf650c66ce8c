"""Graphs that bring their own images: which tensor is fed, and that both modes are then what their session gives."""

import numpy as np
import pytest
import tensorflow as tf

from finetune.tf_graphs import open_graph
from tests.support.tf1_forms import Form, conv, fused, head, images, network, save, switch, v1


def a_queue_of_files():
    """As TensorFlow's own CIFAR-10 tutorial: files, crops, flips, contrast, standardisation, shuffled batches."""
    names = v1.train.string_input_producer(["there-is-no-such-file"])
    _, record = v1.FixedLengthRecordReader(20 * 20 * 3).read(names)
    image = tf.cast(tf.reshape(tf.io.decode_raw(record, tf.uint8), [20, 20, 3]), tf.float32)
    image = tf.image.random_flip_left_right(tf.image.random_crop(image, [16, 16, 3]))
    image = tf.image.per_image_standardization(tf.image.random_contrast(image, 0.2, 1.8))
    batch, _ = v1.train.shuffle_batch([image, tf.zeros([], tf.int64)], 8, 60, 20)
    made = network(batch)
    return Form(batch, made.logits, made.true, made.false)


def augmented_in_the_graph():
    """Every image is cropped and flipped on its own; behind it, pixels are scaled for all."""
    x = v1.placeholder(tf.uint8, [8, 20, 20, 3], "x")

    def changed(image):
        return tf.image.random_flip_left_right(tf.image.random_crop(image, [16, 16, 3]))

    crops = tf.map_fn(changed, x)
    crops.set_shape([8, 16, 16, 3])
    made = network(tf.cast(crops, tf.float32) / 127.5 - 1)
    return Form(crops, made.logits, made.true, made.false, lambda images: images.astype(np.uint8))


def brightness_for_training():
    x, training = images(), switch()
    brighter = tf.cond(training, lambda: tf.image.random_brightness(x, 0.5), lambda: x)
    made = network(brighter, training)
    return Form(brighter, made.logits, made.true, made.false)


def towers():
    x, training, losses = images((16, 16, 16, 3)), switch(), []
    for index, part in enumerate(tf.split(x, 2)):
        with v1.name_scope(f"tower_{index}"), v1.variable_scope("", reuse=v1.AUTO_REUSE):
            logits, loss = head(tf.nn.relu(fused(conv(part, "a"), training, "a")))
            losses.append((part, logits, loss))
    v1.train.AdamOptimizer().minimize(tf.add_n([loss for _, _, loss in losses]))
    part, logits, _ = losses[0]
    return Form(part, logits, {training: True}, {training: False})


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize(
    ("build", "fed", "scaling"),
    [
        (a_queue_of_files, "shuffle_batch:0 (float32 [8, 16, 16, 3])", "pixels are scaled in what is cut off"),
        (augmented_in_the_graph, "map/TensorArray", "the graph scales its images itself (truediv, sub)"),
        (brightness_for_training, "cond/", "the graph does not scale its images"),
        (towers, "split:0 (float32 [8, 16, 16, 3])", "the graph does not scale its images"),
    ],
)  # fmt: skip
def test_images_are_fed_behind_what_changes_them(tmp_path, build, fed, scaling, v2):
    saved = save(tmp_path, build, v2=v2, pixels=build is augmented_in_the_graph)
    subject = open_graph(saved.meta)
    for mode, logits in (("batch", saved.true), ("moving", saved.false)):
        np.testing.assert_allclose(subject.forward(mode)(saved.images)[0], logits, atol=2e-5, err_msg=mode)
    lines = subject.facts.lines
    assert lines[0].startswith(f"input {fed}"), lines[0]
    assert lines[1].startswith(scaling), lines[1]
    assert not any("random" in line for line in lines[1:])
    if build is towers:
        assert "tower_0/logits:0" in lines[2]
        assert "tower_1/logits:0 with the same weights left out" in lines[2]
