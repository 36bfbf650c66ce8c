"""BatchNorm that Keras 3 does not have is measured as Keras 2 computes it."""

import numpy as np
import pytest
import tensorflow as tf
from tf_keras import layers

from finetune.backbone.keras_2.legacy_subject import LegacySubject
from finetune.batchnorm.live import normalisations
from finetune.batchnorm.scores import Scores
from tests.support import keras_2_files as files

CLIPPING = {"rmax": 1.5, "rmin": 0.8, "dmax": 0.3}
KINDS = {
    "renorm": lambda: layers.BatchNormalization(renorm=True, renorm_clipping=CLIPPING),
    "virtual": lambda: layers.BatchNormalization(virtual_batch_size=4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_both_modes_are_keras_2_s_own_and_nothing_is_updated(kind):
    own = files.model(lambda x: layers.Dropout(0.5)(files.conv(layers.BatchNormalization()(x), KINDS[kind])))
    subject = LegacySubject(own, Scores(files.CLASSES, probabilities=True))
    count = subject.batch_size or 8
    assert count == {"renorm": 8, "virtual": 64}[kind]
    images = tf.constant(files.images(count))
    before = [variable.numpy() for variable in own.variables]
    moving, batch = subject.forward("moving"), subject.forward("batch")
    logits, none = moving(images)
    assert none == []
    np.testing.assert_allclose(logits, np.log(own(images, training=False)), rtol=1e-4, atol=1e-4)
    logits, moments = batch(images)
    assert all(np.array_equal(old, new) for old, new in zip(before, own.variables, strict=True))
    own.layers[-3].call = lambda inputs, training=None: inputs  # the dropout
    np.testing.assert_allclose(logits, np.log(own(images, training=True)), rtol=1e-4, atol=1e-4)
    values = np.asarray(images, np.float64).reshape(-1, 3)
    np.testing.assert_allclose(moments[0][0], values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments[0][1], values.var(axis=0), rtol=1e-6)
    assert int(moments[0][2]) == len(values)


def test_statistics_are_read_and_written_by_channel():
    own = files.model(lambda x: files.conv(x, KINDS["virtual"]))
    subject = LegacySubject(own, Scores(files.CLASSES, probabilities=True))
    (name,) = subject.snapshot()
    mean = np.arange(6, dtype=np.float32)
    subject.restore({name: (mean, mean + 1)})
    assert normalisations(own)[0].moving_mean.shape == (1, 1, 1, 1, 6)
    np.testing.assert_array_equal(subject.snapshot()[name][1], mean + 1)
    assert subject.layers[0].gamma.shape == (6,)
    assert (subject.outputs, subject.per_label) == (3, False)
