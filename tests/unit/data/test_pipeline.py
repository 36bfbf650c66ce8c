"""Batches: which images are in them, and that nothing but the arguments decides."""

import os

import numpy as np
import pytest
import tensorflow as tf

from finetune.data import pipeline
from finetune.data.augmentation import Augmentation
from finetune.data.dataset import Split
from finetune.data.preprocessing import find_preprocessing
from finetune.errors import WrongUse

MOVES = Augmentation(2, True)


def split_of(examples, side=8):
    """Images of noise whose label is their number."""
    images = np.random.default_rng(0).integers(0, 256, (examples, side, side, 3), np.uint8)
    return Split(images, np.arange(examples))


def train(split, *, epoch=0, start_batch=0, batch_size=8, seed=5, image_size=8, augmentation=MOVES):
    batches = pipeline.train_batches(
        split,
        pipeline.Epoch(seed, epoch, augmentation, start_batch),
        batch_size=batch_size,
        image_size=image_size,
        preprocessing=find_preprocessing("raw"),
    )
    return [(images.numpy(), labels.numpy()) for images, labels in batches]


def evaluate(split, *, batch_size, image_size=8, name="raw"):
    batches = pipeline.eval_batches(
        split, batch_size=batch_size, image_size=image_size, preprocessing=find_preprocessing(name)
    )
    return [tuple(part.numpy() for part in batch) for batch in batches]


def assert_same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("examples", "batch_size", "steps"), [(100, 32, 3), (96, 32, 3), (32, 32, 1), (31, 32, 1), (1, 32, 1)]
)
def test_steps_per_epoch_are_the_batches_there_are(examples, batch_size, steps):
    assert pipeline.steps_per_epoch(examples, batch_size) == steps
    batches = train(split_of(examples), batch_size=batch_size)
    assert [len(labels) for _, labels in batches] == [min(batch_size, examples)] * steps


@pytest.mark.slow
@pytest.mark.parametrize("start", [0, 1, 4, 6, 7])
def test_starting_later_gives_exactly_the_batches_that_were_left(start):
    split = split_of(61)
    assert_same(train(split, epoch=3, start_batch=start), train(split, epoch=3)[start:])


@pytest.mark.parametrize("threads", [1, 8])
def test_the_number_of_threads_changes_nothing(threads, monkeypatch):
    split = split_of(64)
    usual = train(split)
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    assert_same(train(split), usual)


def test_an_epoch_has_its_own_order_and_its_own_moves():
    split = split_of(64)
    first, second, other_seed = train(split, epoch=0), train(split, epoch=1), train(split, epoch=0, seed=6)
    orders = [np.concatenate([labels for _, labels in batches]).tolist() for batches in (first, second, other_seed)]
    assert [sorted(order) for order in orders] == [list(range(64))] * 3
    assert len({tuple(order) for order in orders}) == 3
    images = [
        {label: image for batch in batches for image, label in zip(*batch, strict=True)} for batches in (first, second)
    ]
    moved = [not np.array_equal(images[0][label], images[1][label]) for label in range(64)]
    assert np.mean(moved) > 0.8


def test_an_image_keeps_its_label():
    split = split_of(40)
    for images, labels in train(split, augmentation=Augmentation(0, False)):
        np.testing.assert_array_equal(images, split.images[labels].astype(np.float32))


def test_the_last_partial_batch_is_another_one_every_epoch():
    split = split_of(17)
    left_out = {
        (set(range(17)) - {label for _, labels in train(split, epoch=e) for label in labels}).pop() for e in range(5)
    }
    assert len(left_out) > 1


@pytest.mark.parametrize("examples", [1, 7, 8, 9, 17, 41])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_evaluation_counts_each_image_once_in_full_batches(examples, batch_size):
    split = split_of(examples)
    batches = evaluate(split, batch_size=batch_size)
    counted = np.concatenate([labels[counted] for _, labels, counted in batches])
    assert counted.tolist() == list(range(examples))
    assert {len(labels) for _, labels, _ in batches} == {min(batch_size, examples)}
    assert len(batches) == -(-examples // batch_size)
    for images, labels, counted in batches:
        np.testing.assert_array_equal(images, split.images[labels].astype(np.float32))
        # Images go on one after another, and the uncounted ones come first.
        assert (np.diff(labels) == 1).all()
        assert (np.diff(counted.astype(int)) >= 0).all()
    assert all(counted.all() for _, _, counted in batches[:-1])


def test_shapes_are_known_before_the_first_batch():
    split = split_of(20)
    traced = []

    class Seen:
        def apply(self, images):
            traced.append(images.shape.as_list())
            return tf.cast(images, tf.float32)

    batches = pipeline.eval_batches(split, batch_size=8, image_size=12, preprocessing=Seen())
    # The pipeline is traced with the split's own size, or at the network's, which is the larger.
    assert traced == [[8, 8, 8, 3]]
    assert len(batches) == 3
    assert tuple(map(tf.type_spec_from_value, next(iter(batches)))) == (
        tf.TensorSpec([8, 12, 12, 3], tf.float32),
        tf.TensorSpec([8], tf.int64),
        tf.TensorSpec([8], tf.bool),
    )


@pytest.mark.parametrize("image_size", [5, 8, 20])
@pytest.mark.parametrize("name", ["inception", "caffe"])
def test_images_are_resized_bilinearly_and_preprocessed(image_size, name):
    split = split_of(4)
    ((images, _, _),) = evaluate(split, batch_size=4, image_size=image_size, name=name)
    resized = tf.image.resize(split.images, (image_size, image_size), antialias=image_size < 8)
    np.testing.assert_allclose(images, find_preprocessing(name).apply(resized), rtol=1e-5, atol=1e-4)
    assert images.dtype == np.float32


def test_training_images_are_resized_after_they_were_moved():
    split = split_of(8)
    ((small, labels),) = train(split, image_size=8)
    ((large, same),) = train(split, image_size=24)
    np.testing.assert_array_equal(labels, same)
    np.testing.assert_allclose(large, tf.image.resize(small, (24, 24)), rtol=1e-5, atol=1e-4)


def test_a_read_only_view_will_do():
    split = split_of(20)
    whole = split.images[::2]
    whole.setflags(write=False)
    assert len(evaluate(Split(whole, split.labels[::2]), batch_size=4)) == 3


def test_padding_as_large_as_the_image_is_wrong_use():
    with pytest.raises(WrongUse, match=r"--crop-padding 8 is too much for images of 8 px: expected 0 to 7; 1 is usual"):
        train(split_of(8), augmentation=Augmentation(8, True))
    assert train(split_of(8), augmentation=Augmentation(7, True))


def test_an_iteration_may_be_given_up():
    for _ in range(5):
        next(
            iter(
                pipeline.eval_batches(
                    split_of(100), batch_size=2, image_size=8, preprocessing=find_preprocessing("raw")
                )
            )
        )
