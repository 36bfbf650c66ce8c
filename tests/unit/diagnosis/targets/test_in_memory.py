import keras
import numpy as np
import pytest
import tf_keras

import finetune
from tests.support import small_models

TEST, TRAIN = small_models.images()["test"], small_models.images()["train"]


def diagnosed(model, test=TEST, train=TRAIN, **options):
    return finetune.diagnose_bn(model, test=test, train=train, checks="quick", **options)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return small_models.network(keras)


def with_(change, data):
    return change(data[0]), data[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.transpose(0, 3, 1, 2), "[3, 12, 12], but the model takes [12, 12, 3]; their channels come first"),
        (lambda x: x[:, :8, :8], "the test set has images of [8, 8, 3], but the model takes [12, 12, 3]"),
        (lambda x: x.reshape(len(x), -1), "the test set has images of [432], but the model takes [12, 12, 3]"),
        (lambda x: x * np.nan, "the test set has images with values that are no numbers"),
    ],
)
def test_images_that_do_not_fit_get_one_error(model, change, said):
    with pytest.raises(finetune.FinetuneError) as caught:
        diagnosed(model, test=with_(change, TEST))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda: np.zeros(3), "the model is a ndarray: expected a keras.Model, a tf_keras.Model, or a path"),
        (
            lambda: keras.Sequential([keras.Input(small_models.SHAPE), keras.layers.Flatten(), keras.layers.Dense(4)]),
            "has no BatchNormalization layer",
        ),
        (lambda: keras.Sequential([keras.Input(small_models.SHAPE), keras.layers.Conv2D(4, 3)]), "is no classifier"),
    ],
)
def test_models_that_cannot_be_examined_get_one_error(what, said):
    with pytest.raises(finetune.FinetuneError) as caught:
        diagnosed(what())
    assert said in str(caught.value)


def two_outputs():
    images = keras.Input(small_models.SHAPE)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(images))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, {"kind": keras.layers.Dense(4)(x), "size": keras.layers.Dense(2)(x)})


def test_of_several_outputs_one_is_named():
    model = two_outputs()
    with pytest.raises(finetune.FinetuneError, match=r"2 outputs: kind \[None, 4\], size \[None, 2\]; choose one with"):
        diagnosed(model)
    found = diagnosed(model, output="kind")
    right = model.predict(TEST[0], verbose=0)["kind"].argmax(axis=1) == TEST[1]
    assert found.accuracy["test"]["is_training_false"] == right.mean()


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras 3", "keras 2"])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_loss_and_accuracy_are_keras_own(library, activation):
    model = small_models.trained(library, epochs=1, activation=activation)
    for one in (model, small_models.subclassed(library, model)):
        found = diagnosed(one)
        loss, accuracy = model.evaluate(*TEST, verbose=0)
        assert found.accuracy["test"]["is_training_false"] == pytest.approx(accuracy, abs=1e-6)
        assert found.loss["test"]["is_training_false"] == pytest.approx(loss, rel=1e-5)


def test_a_layer_of_ones_own_with_batchnorm_in_it_is_measured_in_place():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()

        def call(self, images, training=None):
            return self.norm(self.conv(images), training=training)

    images = keras.Input(small_models.SHAPE)
    model = keras.Model(images, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(Block()(images))))
    found = diagnosed(model)
    assert "measured in place" in found.notes[0]
    right = model.predict(TEST[0], verbose=0).argmax(axis=1) == TEST[1]
    assert found.accuracy["test"]["is_training_false"] == right.mean()


def test_renorm_is_as_keras_2_computes_it():
    model = tf_keras.Sequential([
        tf_keras.layers.Conv2D(4, 3, input_shape=small_models.SHAPE), tf_keras.layers.BatchNormalization(renorm=True),
        tf_keras.layers.GlobalAveragePooling2D(), tf_keras.layers.Dense(4),
    ])  # fmt: skip
    before = small_models.state(model)
    found = diagnosed(model)
    assert "measured in place" in found.notes[0]
    assert all(np.array_equal(a, b) for a, b in zip(before, small_models.state(model), strict=True))
