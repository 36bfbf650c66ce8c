import keras
import numpy as np
import pytest

from finetune.backbone.keras_2.legacy_subject import LegacySubject
from finetune.batchnorm.flatten import flat
from finetune.batchnorm.live import LiveSubject
from finetune.batchnorm.scores import Scores
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import adopt
from finetune.errors import FinetuneError
from tests.support import small_models

IMAGES = small_models.images()["test"][0]


def live(model):
    return LiveSubject(model, Scores(small_models.CLASSES), small_models.SHAPE)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = small_models.network(keras, momentum=0.9)
    for layer in (model.get_layer("base").get_layer("bn1"), model.get_layer("bn2")):
        layer.moving_mean.assign(np.linspace(-0.3, 0.3, 8))
        layer.moving_variance.assign(np.linspace(0.5, 2, 8))
    return model


@pytest.mark.parametrize("statistics", ["moving", "batch"])
def test_it_computes_what_its_clone_does(model, statistics):
    clone = KerasSubject(adopt(flat(model), unbiased=False))
    expected, of_clone = clone.forward(statistics)(IMAGES)
    logits, moments = live(model).forward(statistics)(IMAGES)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    for one, other in zip(moments, of_clone, strict=True):
        for value, known in zip(one, other, strict=True):
            np.testing.assert_allclose(value, known, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_what_a_layer_starts_from_is_what_its_initializers_give(library):
    keras = pytest.importorskip(library)
    given = {
        "moving_mean_initializer": keras.initializers.Constant(0.25),
        "moving_variance_initializer": "zeros",
        "gamma_initializer": "zeros",
    }
    image = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(name="own", **given)(image)
    x = keras.layers.BatchNormalization(name="stock")(x)
    x = keras.layers.BatchNormalization(name="random", moving_mean_initializer="random_normal")(x)
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    opened = LiveSubject(model, Scores(2), (8, 8, 3)) if library == "keras" else LegacySubject(model, Scores(2))
    own, stock, random = opened.layers
    for layer in (own, stock):
        fresh = model.get_layer(layer.name)
        for value, weight in zip(layer.initial, (fresh.moving_mean, fresh.moving_variance), strict=True):
            assert np.all(np.array(weight) == np.float32(value))
        assert np.all(np.array(fresh.gamma) == layer.initial_gamma)
    assert np.isnan(random.initial[0])
    assert random.initial[1] == 1
    if library == "keras":
        assert KerasSubject(adopt(model, unbiased=False)).layers[:2] == [own, stock]


def test_batch_statistics_are_those_of_keras_in_training(model):
    saved = small_models.state(model)
    quiet = keras.models.clone_model(model)  # dropout would differ
    quiet.set_weights(model.get_weights())
    for layer in quiet._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    expected = quiet(IMAGES, training=True)
    np.testing.assert_allclose(live(model).forward("batch")(IMAGES)[0], expected, atol=1e-5)
    assert all(np.array_equal(a, b) for a, b in zip(saved, small_models.state(model), strict=True))


def test_the_layers_are_what_they_were_also_after_an_error(model):
    subject = live(model)
    layers = [model.get_layer("base").get_layer("bn1"), model.get_layer("bn2")]
    assert [layer.name for layer in subject.layers] == ["bn1", "bn2"]
    broken = LiveSubject(model, Scores(small_models.CLASSES), small_models.SHAPE)
    broken._shape = (12, 12, 4)
    with pytest.raises(ValueError, match="incompatible"):
        broken.forward("batch")
    assert all("call" not in vars(layer) for layer in layers)
    saved = subject.snapshot()
    subject.restore({name: (mean + 1, variance) for name, (mean, variance) in saved.items()})
    np.testing.assert_allclose(layers[0].moving_mean, np.linspace(-0.3, 0.3, 8) + 1, rtol=1e-6)
    subject.restore(saved)
    np.testing.assert_array_equal(layers[0].moving_mean, saved["bn1"][0])


def test_a_layer_that_is_called_twice_is_refused():
    shared = keras.layers.BatchNormalization(name="shared")
    images = keras.Input(small_models.SHAPE)
    x = keras.layers.GlobalAveragePooling2D()(shared(shared(images)))
    model = keras.Model(images, keras.layers.Dense(small_models.CLASSES)(x))
    with pytest.raises(FinetuneError, match="'shared' is used at several places"):
        live(model)
