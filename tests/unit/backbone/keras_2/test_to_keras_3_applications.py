"""Networks of `tf_keras.applications`, as Keras 2 saves them: its logits in both modes."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from finetune.backbone import open_model
from finetune.backbone.outputs import as_logits
from finetune.batchnorm.flatten import flat
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import adopt
from finetune.tf_graphs import open_exported
from tests.support import keras_2_files as files

SCALES = ("MobileNetV3Small", "EfficientNetB0")
"""These scale their pixels themselves."""
OTHERS = {
    "DenseNet121": 64,
    "EfficientNetB0": 64,
    "InceptionResNetV2": 96,
    "NASNetMobile": 64,
    "Xception": 96,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "side", "form"),
    [
        ("MobileNetV3Small", 32, "own.h5"),
        *(
            pytest.param(name, side, form, marks=pytest.mark.slow)
            for name, side in OTHERS.items()
            for form in ("own.h5", "own")
        ),
    ],
)
def test_the_logits_are_those_of_keras_2(application, side, form, tmp_path):
    tf_keras.utils.set_random_seed(0)
    make = getattr(tf_keras.applications, application)
    model = files.moved(make(weights=None, input_shape=(side, side, 3), classes=7, classifier_activation=None))
    images = np.random.default_rng(0).uniform(0, 255, (8, side, side, 3)).astype(np.float32)
    images = images if application in SCALES else images / 127.5 - 1
    path = tmp_path / form
    files.written(model, path) if path.suffix else model.save(path, save_format="tf")
    moving, batch = model(images, training=False).numpy(), files.in_training(model, images)
    subjects = [KerasSubject(adopt(as_logits(flat(open_model(path)), name="own").model, unbiased=False))]
    subjects += [] if path.suffix else [open_exported(path)]
    assert np.abs(batch - moving).max() > 1e-3 * np.abs(moving).max()
    for subject in subjects:
        for statistics, expected, least in (("moving", moving, 1e-5), ("batch", batch, 1e-3)):
            got = np.asarray(subject.forward(statistics)(tf.constant(images))[0])
            assert np.abs(got - expected).max() <= least * np.abs(expected).max(), statistics
