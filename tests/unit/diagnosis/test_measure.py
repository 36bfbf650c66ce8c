"""The measures: three modes over the same images, drift in sigmas, and a model left as it was."""

import keras
import numpy as np
import pytest

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import adopt, bn_layers
from finetune.data.batches import EvalSet
from finetune.data.dataset import Split
from finetune.data.preprocessing import find_preprocessing
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.measure import examine
from finetune.errors import FinetuneError


def split(seed, n):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = np.clip(rng.normal(60 + 60 * labels[:, None, None, None], 20, (n, 6, 6, 3)), 0, 255)
    return Split(images.astype(np.uint8), labels)


def model():
    """Brightness told apart after a BatchNorm whose moving statistics are still 0 and 1."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.BatchNormalization(name="scope.bn")(inputs)
    x = keras.layers.Dropout(0.9)(keras.layers.GlobalAveragePooling2D()(x))
    built = adopt(keras.Model(inputs, keras.layers.Dense(3, name="logits")(x)), unbiased=False)
    # The class whose mean, in sigmas of all images, is nearest: -1.2, 0 or 1.2.
    built.get_layer("logits").kernel.assign(np.full((3, 3), 1 / 3) * np.array([-1.2, 0, 1.2]))
    built.get_layer("logits").bias.assign([-0.72, 0, -0.72])
    return built


def fed(images, preprocessing="raw"):
    return EvalSet(images, batch_size=30, image_size=6, preprocessing=find_preprocessing(preprocessing))


@pytest.mark.slow
def test_three_ways_and_the_model_is_left_as_it_was():
    tested, test, train = model(), split(0, 300), split(1, 600)
    before = [np.array(v) for v in tested.variables]
    evidence = examine(KerasSubject(tested), test=fed(test), train=fed(train), facts=Facts(updates=0, decay=0.9))
    # Raw brightness is far above every mean the moving statistics know: everything is called class 2.
    assert evidence.test.is_training_false.accuracy == pytest.approx(np.mean(test.labels == 2))
    assert evidence.test.is_training_true.accuracy > 0.9
    assert evidence.test.recalibrated.accuracy > 0.95
    assert evidence.train.recalibrated.examples == 600
    assert evidence.facts.residual == 1.0
    (layer,) = evidence.layers
    x = train.images.astype(np.float64)
    assert layer.name == "scope/bn"
    assert layer.values == x[..., 0].size / 20
    assert layer.at_initial
    assert layer.at_source is None
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    assert layer.mean_shift == pytest.approx(np.sqrt(np.mean(mean**2 / (variance + 1e-3))), rel=1e-5)
    assert layer.log_variance_ratio == pytest.approx(np.sqrt(np.mean(np.log(variance) ** 2)), rel=1e-3)
    for a, b in zip(before, tested.variables, strict=True):
        np.testing.assert_array_equal(a, np.array(b))


def test_left_as_it_was_also_after_ctrl_c():
    tested, images = model(), split(0, 120)
    bn_layers(tested)[0].moving_mean.assign([1.0, 2.0, 3.0])
    before, calls = KerasSubject(tested).snapshot(), []

    def interrupt():
        calls.append(1)
        if len(calls) == 17:  # among the batches of the recalibrated passes
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(KerasSubject(tested), test=fed(images), train=fed(images), on_batch=interrupt)
    np.testing.assert_array_equal(KerasSubject(tested).snapshot()["scope.bn"][0], before["scope.bn"][0])


def test_a_model_without_batchnorm_is_said_to_have_none():
    inputs = keras.Input((6, 6, 3))
    plain = adopt(keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs))), unbiased=False)
    with pytest.raises(FinetuneError, match="no BatchNormalization layer"):
        examine(KerasSubject(plain), test=fed(split(0, 30)), train=fed(split(0, 30)))
