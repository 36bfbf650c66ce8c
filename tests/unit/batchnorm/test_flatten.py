"""Models inside models become one graph: the same outputs to the bit, every BatchNorm within reach."""

import keras
import numpy as np
import pytest

from finetune.batchnorm.flatten import flat, image_shape, originals
from finetune.batchnorm.statistics import forward
from finetune.batchnorm.surgery import adopt, bn_layers, to_stock
from finetune.errors import FinetuneError

SIZE = 32


BN = 9
"""BN layers of `base`."""


def base(name=None, seed=0):
    """The first blocks of a network of keras.applications, with weights and statistics far from the initial."""
    whole = keras.applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), alpha=0.35, include_top=False, weights=None)
    model = keras.Model(whole.input, whole.get_layer("block_2_add").output, name=name)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_variance.shape))
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
    return model


def guide():
    """As Keras's transfer-learning guide writes it."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)], name="augment")(
        inputs
    )
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = base()(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(inputs, keras.layers.Dense(5)(x))


def sequential():
    """A Sequential of a Sequential, arithmetic before it, an adapted Normalization in it."""
    normalization = keras.layers.Normalization()
    normalization.adapt(np.random.default_rng(1).uniform(0, 255, (4, SIZE, SIZE, 3)).astype(np.float32))
    inner = keras.Sequential([normalization, base(), keras.layers.GlobalAveragePooling2D()], name="features")
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(inputs)[..., ::-1]
    return keras.Model(inputs, keras.Sequential([inner, keras.layers.Dense(5)])(x))


def two_towers():
    """Two nested networks whose layers have the same names, one of them two models deep."""
    inputs = keras.Input((SIZE, SIZE, 3))
    deep_input = keras.Input((SIZE, SIZE, 3))
    deep = keras.Model(deep_input, base("right", seed=2)(deep_input), name="deep")
    x = keras.layers.Add()([base("left", seed=1)(inputs), deep(inputs)])
    return keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalMaxPooling2D()(x)))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).uniform(0, 255, (3, SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("build", "layers"), [(guide, BN), (sequential, BN), (two_towers, 2 * BN), (base, BN)])
def test_flat_is_the_same_to_the_bit_and_shows_every_batchnorm(build, layers, images, tmp_path):
    model = build()
    expected = np.asarray(model(images, training=False))
    copy = flat(model)
    np.testing.assert_array_equal(np.asarray(copy(images, training=False)), expected)
    assert not [layer.name for layer in copy.layers if isinstance(layer, keras.Model)]
    adopted = adopt(copy, unbiased=False)
    assert len(bn_layers(adopted)) == layers
    np.testing.assert_allclose(np.asarray(adopted(images, training=False)), expected, atol=1e-5)
    to_stock(adopted).save(tmp_path / "model.keras")
    back = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(np.asarray(back(images, training=False)), expected)
    assert np.asarray(model(images, training=False)).tobytes() == expected.tobytes()


@pytest.mark.slow
def test_names_are_kept_and_prefixed_only_where_they_clash():
    names = [layer.name for layer in flat(guide()).layers]
    assert {"random_flip", "random_rotation", "Conv1", "bn_Conv1", "block_2_add"} <= {
        name.rstrip("0123456789").rstrip("_") if name.startswith("random") else name for name in names
    }
    towers = [layer.name for layer in flat(two_towers()).layers]
    assert len(set(towers)) == len(towers)
    assert ("left.Conv1" in towers) != ("right.Conv1" in towers)
    assert "Conv1" in towers


def test_augmentation_survives_and_acts_in_training_only(images):
    copy = flat(guide())
    kinds = [type(layer).__name__ for layer in copy.layers]
    assert kinds[1:4] == ["RandomFlip", "RandomRotation", "Rescaling"]
    augmented = keras.Model(copy.input, copy.layers[3].output)
    assert not np.array_equal(augmented(images, training=True), augmented(images, training=False))


def test_a_plain_layer_may_be_shared(images):
    inputs = keras.Input((SIZE, SIZE, 3))
    shared = keras.layers.Conv2D(4, 3, padding="same")
    x = shared(keras.layers.Conv2D(3, 3, padding="same")(inputs))
    x = keras.layers.Concatenate()([x, shared(inputs)])
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    copy = flat(model)
    assert len(copy.variables) == 4
    np.testing.assert_array_equal(copy(images), model(images))


def test_another_image_size_keeps_the_weights():
    model = base()
    copy = flat(model, image_size=64)
    assert copy.input_shape == (None, 64, 64, 3)
    for ours, theirs in zip(copy.variables, model.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(flat(model, weights=False).variables[0], model.variables[0])


class _Own(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = keras.layers.Conv2D(4, 3)

    def call(self, x):
        return self.conv(x)


class _Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.bn = keras.layers.BatchNormalization()

    def call(self, x):
        return self.bn(x)


def _with(layer):
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, layer(inputs))


def _shared_bn():
    inputs = keras.Input((SIZE, SIZE, 3))
    bn = keras.layers.BatchNormalization(name="twice")
    return keras.Model(inputs, bn(bn(inputs)))


def _two_inputs():
    a, b = keras.Input((SIZE, SIZE, 3)), keras.Input((SIZE, SIZE, 3))
    return keras.Model([a, b], keras.layers.Add()([a, b]))


def _two_outputs():
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, [keras.layers.ReLU()(inputs), keras.layers.Softmax()(inputs)])


def _flattened():
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, keras.layers.Dense(2, name="fc")(keras.layers.Flatten()(inputs)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: _with(_Own(name="mine")), r"layer 'mine' \('mine', _Own\) is a subclassed model"),
        (lambda: _Own(name="mine"), r"the model \('mine', _Own\) is a subclassed model"),
        (lambda: _with(_Block(name="block")), r"layer 'block' \(_Block\) has BatchNormalization inside"),
        (_shared_bn, "BatchNormalization 'twice' is used at several places"),
        (_two_inputs, "takes 2 inputs"),
        (_two_outputs, "has 2 outputs"),
        (lambda: keras.Sequential([keras.layers.Dense(2)], name="later"), r"'later'\) is not built"),
        (lambda: keras.Sequential([keras.Input((7,)), keras.layers.Dense(2)]), r"1 inputs of shape \[None, 7\]"),
    ],
)
def test_what_cannot_be_flattened_is_refused_by_name(build, message):
    with pytest.raises(FinetuneError, match=message):
        flat(build())


@pytest.mark.parametrize(
    ("shape", "image"), [((6, 5), (6, 5, 1)), ((64,), (8, 8, 1)), ((192,), (8, 8, 3)), ((256,), (16, 16, 1))]
)
def test_grey_images_without_a_channel_and_rows_of_pixels(shape, image):
    inputs = keras.Input(shape)
    x = keras.layers.BatchNormalization(name="bn")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    images = np.random.default_rng(0).normal(0, 1, (4, *image)).astype(np.float32)
    assert image_shape(model) == image
    np.testing.assert_array_equal(flat(model)(images), model(images.reshape(4, *shape)))
    assert list(originals(model)) == ["bn"]


def test_a_size_the_layers_do_not_take_is_refused_by_name():
    with pytest.raises(FinetuneError, match=r"layer 'fc' .* image size"):
        flat(_flattened(), image_size=64)


def channels(layout):
    """A network of layers that have a layout, and its twin in the other one."""
    first = layout == "channels_first"
    given = {"data_format": layout}
    images = keras.Input((3, 12, 10) if first else (12, 10, 3))
    x = keras.layers.Conv2D(6, 3, strides=2, **given)(keras.layers.ZeroPadding2D(**given)(images))
    x = keras.layers.BatchNormalization(axis=1 if first else -1, name="one")(x)
    x = keras.layers.MaxPooling2D(padding="same", **given)(keras.layers.ReLU()(x))
    x = keras.layers.SpatialDropout2D(0.2, **given)(keras.layers.DepthwiseConv2D(2, **given)(x))
    x = keras.layers.BatchNormalization(axis=1 if first else -1, name="two")(keras.layers.UpSampling2D(**given)(x))
    x = [keras.layers.Flatten(**given)(x), keras.layers.GlobalAveragePooling2D(**given)(x)]
    return keras.Model(images, keras.layers.Dense(5)(keras.layers.Concatenate()(x)))


def test_channels_first_are_computed_with_channels_last():
    rng = np.random.default_rng(0)
    model, twin = channels("channels_first"), channels("channels_last")
    for one in (model, twin):
        one.set_weights([np.random.default_rng(1).uniform(0.5, 1.5, w.shape) for w in one.weights])
    images = rng.normal(size=(6, 12, 10, 3)).astype(np.float32)
    flattened = flat(model)
    assert flattened.input_shape == (None, 12, 10, 3)
    for statistics in ("moving", "batch"):
        expected, got = (
            np.asarray(forward(adopt(one, unbiased=False), statistics)(images)[0]) for one in (twin, flattened)
        )
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(flattened(images), twin(images), rtol=1e-5, atol=1e-5)
    assert list(originals(model)) == ["one", "two"]


@pytest.mark.parametrize("channels", [6, 10])
def test_batchnorm_over_rows_is_not_taken_for_one_over_channels(channels):
    """A slip of many: axis=1 with channels last. With as many channels as rows the shapes do not show it."""
    images = keras.Input((12, 14, 3))
    x = keras.layers.BatchNormalization(axis=1, name="rows")(keras.layers.Conv2D(channels, 3)(images))
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, one.shape) for one in model.weights])
    pixels = rng.normal(size=(6, 12, 14, 3)).astype(np.float32)
    ours = adopt(flat(model), unbiased=False)
    assert bn_layers(ours)[0].moving_mean.shape == (10,)
    moving, _ = forward(ours, "moving")(pixels)
    np.testing.assert_allclose(moving, model(pixels, training=False), rtol=1e-5, atol=1e-5)
    batch, ((mean, variance, count),) = forward(ours, "batch")(pixels)
    np.testing.assert_allclose(batch, model(pixels, training=True), rtol=1e-4, atol=1e-5)
    x = np.asarray(model.layers[1](pixels), np.float64)
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var((0, 2, 3)), rtol=1e-5)
    assert count == 6 * 12 * channels
