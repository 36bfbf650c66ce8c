"""A transferred model computes what Keras 2 computes, under moving and batch statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from finetune.backbone.keras_2.to_keras_3 import transferred
from finetune.batchnorm.flatten import flat
from finetune.batchnorm.statistics import forward
from finetune.batchnorm.surgery import adopt
from finetune.errors import FinetuneError
from tests.support import keras_2_files as files


def preprocessed(mode):
    return lambda x: files.conv(tf_keras.applications.imagenet_utils.preprocess_input(x, mode=mode))


def augmented(x):
    for layer in (
        *(layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomZoom(0.1), layers.RandomContrast(0.1)),
        *(layers.RandomTranslation(0.1, 0.1), layers.RandomBrightness(0.1), layers.RandomHeight(0.1)),
        *(layers.RandomWidth(0.1), layers.RandomCrop(14, 12), layers.Resizing(12, 12), layers.CenterCrop(10, 10)),
        *(layers.GaussianNoise(0.1), layers.SpatialDropout2D(0.3), layers.Dropout(0.3)),
    ):
        x = layer(x)
    return files.conv(x)


def between_layers(x):
    x = (tf.cast(x, tf.float32) - tf.constant([100.0, 110.0, 120.0])) / [50.0, 60.0, 70.0]
    x = tf.pad(x[..., ::-1][:, 1:], [[0, 0], [1, 1], [1, 1], [0, 0]])
    kept = layers.Conv2D(6, 3)(tf.image.resize(x, (12, 12)))
    x = tf.nn.relu(layers.BatchNormalization()(kept))
    x = 1.0 - x * tf.nn.sigmoid(kept) + 0.5 * kept
    return tf.concat([x, tf.reduce_mean(x, [1, 2], keepdims=True) + tf.clip_by_value(x, -1.0, 1.0)], -1)


def on_images(x):
    grey = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(x))
    x = layers.Conv2D(6, 3)(tf.image.per_image_standardization(x - 0.5 * grey))
    return tf.math.l2_normalize(layers.BatchNormalization()(x), axis=-1) - tf.reduce_min(x, [1, 2], keepdims=True)


def activations(x):
    x = layers.Conv2D(6, 3, 2, activation="hard_sigmoid")(layers.Rescaling(1 / 255)(x))
    x = layers.Conv2D(6, 1, activation=layers.LeakyReLU(0.3))(x)
    x = layers.BatchNormalization(axis=1, epsilon=1e-8)(x)  # over rows, a slip of many
    for one in ("hard_sigmoid", "swish", "gelu", "elu", "relu6", "softplus"):
        x = layers.Activation(tf.nn.relu6 if one == "relu6" else one)(x)
    for layer in (layers.LeakyReLU(0.1), layers.PReLU(), layers.ThresholdedReLU(0.2), layers.ReLU(6, 0.1, 0.05)):
        x = layer(x)
    return layers.Activation("hard_sigmoid")(x)


def shapes(x):
    x = layers.SeparableConv2D(6, 3)(layers.DepthwiseConv2D(3, depth_multiplier=2)(layers.Rescaling(1 / 255)(x)))
    x = layers.BatchNormalization(scale=False)(layers.Conv2DTranspose(5, 3, strides=2, padding="same")(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(
        layers.Cropping2D(2)(layers.ZeroPadding2D(((1, 0), (0, 1)))(x))
    )
    x = layers.MaxPooling2D(2)(layers.AveragePooling2D(3, 2, "same")(x))
    x = layers.LayerNormalization()(layers.GroupNormalization(5)(x))
    x = layers.Concatenate()([layers.Add()([x, x]), layers.Multiply()([x, x]), layers.Maximum()([x, x])])
    return layers.BatchNormalization(center=False)(layers.Permute((2, 1, 3))(x))


def normalised(x):
    own = layers.Normalization()
    own.adapt(files.images())
    return files.conv(layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])(own(x)))


def shared(x):
    once = layers.Conv2D(3, 3, padding="same")
    nested = tf_keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()], name="nested")
    return nested(once(once(layers.Rescaling(1 / 255)(x))))


def in_the_head(x):
    x = layers.Flatten()(layers.Conv2D(4, 3, 4)(layers.Rescaling(1 / 255)(x)))
    x = layers.BatchNormalization(axis=[1])(layers.Dense(6)(x))
    return layers.Reshape((1, 1, 6))(x)


def more_between_layers(x):
    red, green, blue = tf.unstack(tf.image.flip_left_right(x), axis=-1)
    x = tf.stack([blue, green, red], axis=-1)
    mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
    x = (x - mean) / tf.sqrt(variance + 1.0) + tf.math.reduce_std(x, [1, 2], keepdims=True) % 3.0 // 2.0
    x = layers.BatchNormalization()(layers.Conv2D(8, 3)(tf.where(x > 0.1, x, tf.math.floor(x))))
    value, gate = tf.split(x, [6, 2], axis=-1)
    x = tf.nn.max_pool2d(tf.math.add_n([value, value * tf.sigmoid(gate[..., :1])]), 3, 2, "SAME")
    x = tf.nn.space_to_depth(tf.nn.avg_pool2d(x, [2, 2], [1, 1], "VALID"), 2)
    rows = tf.reshape(x, [tf.shape(x)[0], 9, 24])
    rows = tf.matmul(tf.nn.softmax(tf.matmul(rows, rows, transpose_b=True)), rows)
    return tf.reshape(rows, (-1, 3, 3, 24))


def in_rows(x):
    x = layers.Reshape((49, 6))(files.conv(x))
    x = layers.MaxPooling1D(2)(layers.BatchNormalization()(layers.Conv1D(6, 3)(x)))
    x = layers.MultiHeadAttention(2, 3)(x, layers.AveragePooling1D(2)(x))
    return layers.Reshape((1, 1, 6))(layers.GlobalMaxPooling1D()(x))


KINDS = {
    "functional": files.conv,
    "nested": lambda x: layers.Dropout(0.5)(files.base()(x)),
    "synchronised": lambda x: files.conv(x, lambda: layers.BatchNormalization(synchronized=True)),
    **{f"preprocess_input {mode}": preprocessed(mode) for mode in ("caffe", "tf", "torch")},
    **{
        one.__name__: one
        for one in (
            *(augmented, between_layers, more_between_layers, on_images, in_rows, activations, shapes, normalised),
            *(shared, in_the_head),
        )
    },
}


@pytest.mark.quick_cases(9)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_is_computed(kind):
    own = files.model(KINDS[kind])
    made = transferred(own, name=kind)
    images = files.images()
    expected = own(images, training=False).numpy()
    largest = np.abs(expected).max()
    assert np.abs(np.asarray(made(images, training=False)) - expected).max() <= 1e-5 * largest
    ours = adopt(flat(made), unbiased=False)
    moving = np.asarray(forward(ours, "moving")(tf.constant(images))[0])
    assert np.abs(moving - expected).max() <= 1e-5 * largest
    trained = files.in_training(own)
    batch = np.asarray(forward(ours, "batch")(tf.constant(images))[0])
    assert np.abs(batch - trained).max() <= 1e-3 * np.abs(trained).max()
    assert np.abs(trained - expected).max() > 1e-3 * largest  # the two modes are told apart


def test_it_is_saved_and_opened_in_safe_mode(tmp_path):
    own = files.model(between_layers)
    transferred(own, name="own").save(tmp_path / "made.keras")
    again = keras.models.load_model(tmp_path / "made.keras", safe_mode=True)
    images = files.images()
    np.testing.assert_allclose(again(images, training=False), own(images, training=False), atol=1e-6)


def test_in_float64_it_is_the_same_to_six_digits():
    """Also where float32 cannot be compared: of features that hardly differ between images, BatchNorm after Dense makes
    the rounding large (in float32 Keras 2 differs from itself in float64 by up to 1e-2)."""
    switches = (tf_keras.backend.set_floatx, tf_keras.mixed_precision.set_global_policy, keras.config.set_floatx)
    switches += (keras.config.set_dtype_policy,)
    for switch in switches:
        switch("float64")
    try:
        inputs = tf_keras.Input((files.SIZE, files.SIZE, 3))
        x = layers.BatchNormalization()(layers.Conv2D(6, 3)(inputs / 127.5))
        x = layers.GlobalAveragePooling2D()(layers.Activation("hard_sigmoid")(layers.Activation("sigmoid")(x)))
        for _ in range(2):
            x = layers.ReLU()(layers.BatchNormalization(epsilon=1e-6)(layers.Dense(6)(x)))
        own = files.moved(tf_keras.Model(inputs, layers.Dense(3)(x)))
        made, images = transferred(own, name="own"), files.images(5).astype(np.float64)
        for training in (True, False):
            expected = own(images, training=training).numpy()
            assert expected.dtype == np.float64
            got = np.asarray(made(images, training=training))
            assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()
    finally:
        for switch in switches:
            switch("float32")


def test_batchnorm_that_never_ran_on_batches_is_marked():
    inputs = tf_keras.Input((files.SIZE, files.SIZE, 3))
    own = files.moved(
        tf_keras.Model(inputs, layers.BatchNormalization(name="on")(files.base()(inputs, training=False)))
    )
    made = transferred(own, name="own")
    found = {
        one.name: one.trainable for one in made._flatten_layers() if isinstance(one, keras.layers.BatchNormalization)
    }
    assert list(found.values()) == [False, True]


def test_names_several_outputs_and_any_shape_are_kept():
    inputs = tf_keras.Input((20, 12, 1), name="scan")
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="conv")(inputs)))
    own = tf_keras.Model(inputs, [layers.Dense(2, name="kind")(x), layers.Dense(5, name="grade")(x)], name="both")
    made = transferred(own, name="own")
    assert made.name == "both"
    assert made.inputs[0].shape == (None, 20, 12, 1)
    assert [one.name for one in made.layers if one.weights] == ["conv", "bn", "kind", "grade"]
    images = np.ones((2, 20, 12, 1), np.float32)
    for got, expected in zip(made(images), own(images), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_subclassed_model_is_refused():
    class Own(tf_keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(FinetuneError, match="has no graph of layers"):
        transferred(Own(), name="own")
