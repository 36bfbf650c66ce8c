"""Every usual head gives the accuracy and loss of Keras's own `evaluate`; one of several outputs is named."""

import keras
import numpy as np
import pytest

from finetune.backbone.head import keep_head, swap_head
from finetune.backbone.outputs import as_logits, choose_output
from finetune.batchnorm.flatten import flat
from finetune.batchnorm.scores import SUMS
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import adopt
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation.evaluator import Evaluator

SIDE, IMAGES = 8, 40
layers, ops = keras.layers, keras.ops
RNG = np.random.default_rng(0)
PIXELS, LABELS = RNG.normal(size=(IMAGES, SIDE, SIDE, 3)).astype(np.float32), RNG.integers(0, 5, IMAGES)


def network(top):
    """A convolution and a BatchNorm with statistics of their own, and what `top` makes of their map."""
    keras.utils.set_random_seed(1)
    images = keras.Input((SIDE, SIDE, 3))
    normal = keras.initializers.RandomNormal(stddev=1.0, seed=2)
    x = layers.Conv2D(6, 3, strides=2, kernel_initializer=normal, name="first")(images)
    return keras.Model(images, top(layers.BatchNormalization(moving_mean_initializer=normal, name="map")(x)))


def dense(units, activation=None, **options):
    options.setdefault("kernel_initializer", keras.initializers.RandomNormal(stddev=1.0, seed=units))
    return layers.Dense(units, activation=activation, **options)


def pooled(*parts):
    def top(x):
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        for part in parts:
            x = part(x)
        return x

    return top


def maps(*parts):
    def top(x):
        x = layers.AveragePooling2D(3, name="last")(x)
        for part in parts:
            x = part(x)
        return x

    return top


def class_maps(x):
    """As SqueezeNet ends."""
    return layers.Softmax()(layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Conv2D(5, 1, name="classes")(x))))


def ensemble(activation, units):
    def top(x):
        return layers.Average()([dense(units, activation)(one) for one in (pooled()(x), layers.Flatten()(x))])

    return top


CLASSES = {
    "dense softmax": pooled(dense(5, "softmax")),
    "dense, batch norm, softmax": pooled(dense(5), layers.BatchNormalization(), layers.Softmax()),
    "dense, activation": pooled(dense(5), layers.Activation("softmax", dtype="float32")),
    "softmax as an operation": pooled(dense(5), ops.softmax),
    "log softmax": pooled(dense(5), ops.log_softmax),
    "convolution, flatten, softmax": maps(layers.Conv2D(5, 1), layers.Flatten(), layers.Softmax()),
    "softmax below a reshape": maps(layers.Conv2D(5, 1, activation="softmax"), layers.Reshape((5,))),
    "softmax of maps": maps(layers.Conv2D(5, 1, activation="softmax")),
    "class maps": class_maps,
    "softmax of a softmax": pooled(dense(5, "softmax"), layers.Softmax()),
    "mean of softmaxes": ensemble("softmax", 5),
}
UNITS = {
    "sigmoid": pooled(dense(1, "sigmoid")),
    "sigmoid as an operation": pooled(dense(1), ops.sigmoid),
    "sigmoid of a map": maps(layers.Conv2D(1, 1), layers.Flatten(), layers.Activation("sigmoid")),
    "logit": pooled(dense(1)),
    "mean of sigmoids": ensemble("sigmoid", 1),
}
LABELLED = {"sigmoids": pooled(dense(5, "sigmoid")), "mean of sigmoids": ensemble("sigmoid", 5)}


def scored(model, labels):
    found = as_logits(flat(model), name="m.keras")
    subject = KerasSubject(adopt(found.model, unbiased=False), found.scores)
    return Evaluator(subject).evaluate([(PIXELS, labels, np.ones(IMAGES, bool))]), found


def of_keras(model, labels, loss, *metrics):
    """Keras's own loss and metrics, in one batch."""
    model.compile(loss=loss, metrics=list(metrics), run_eagerly=True)
    return model.evaluate(PIXELS, labels, batch_size=IMAGES, verbose=0)


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize("top", CLASSES.values(), ids=CLASSES)
def test_classes_are_scored_as_keras_scores_them(top):
    model = network(top)
    flat_output = keras.Model(model.inputs, layers.Reshape((5,))(model.outputs[0]))
    if top is CLASSES["log softmax"]:
        flat_output = keras.Model(model.inputs, ops.exp(model.outputs[0]))
    loss, accuracy = of_keras(flat_output, LABELS, "sparse_categorical_crossentropy", "sparse_categorical_accuracy")
    result, found = scored(model, LABELS)
    assert result.correct == round(accuracy * IMAGES)
    assert result.loss == pytest.approx(loss, abs=1e-5)
    assert found.words == ""


def test_a_softmax_that_is_written_out_is_known_by_its_sum():
    def top(x):
        x = ops.exp(pooled(dense(5))(x))
        return x / ops.sum(x, axis=-1, keepdims=True)

    model = network(top)
    loss, accuracy = of_keras(model, LABELS, "sparse_categorical_crossentropy", "sparse_categorical_accuracy")
    result, found = scored(model, LABELS)
    assert result.correct == round(accuracy * IMAGES)
    assert result.loss == pytest.approx(loss, abs=1e-5)
    assert found.words == SUMS


@pytest.mark.slow
@pytest.mark.parametrize("top", UNITS.values(), ids=UNITS)
def test_one_unit_is_scored_as_keras_scores_it(top):
    model, labels = network(top), LABELS % 2
    logit = top is UNITS["logit"]
    loss = keras.losses.BinaryCrossentropy(from_logits=logit)
    metric = keras.metrics.BinaryAccuracy(threshold=0.0 if logit else 0.5)
    loss, accuracy = of_keras(model, labels[:, None].astype("float32"), loss, metric)
    result, found = scored(model, labels)
    assert result.correct == round(accuracy * IMAGES)
    assert result.loss == pytest.approx(loss, abs=1e-5)
    assert "the second class of the data" in found.words
    assert ("without an activation" in found.words) == logit


@pytest.mark.parametrize("top", LABELLED.values(), ids=LABELLED)
def test_independent_sigmoids_are_scored_by_the_largest_and_by_label(top):
    model, one_hot = network(top), np.eye(5, dtype="float32")[LABELS]
    loss, accuracy, by_label = of_keras(
        model, one_hot, "binary_crossentropy", "categorical_accuracy", "binary_accuracy"
    )
    result, found = scored(model, LABELS)
    assert result.correct == round(accuracy * IMAGES)
    assert [result.loss, result.label_accuracy] == pytest.approx([loss, by_label], abs=1e-5)
    assert found.words == "5 independent sigmoids: of one class an image, the largest is predicted"


def test_logits_are_of_sigmoids_where_the_loss_was_a_binary_one():
    model = flat(network(pooled(dense(5))))
    assert not as_logits(model, name="m").scores.per_label
    found = as_logits(model, name="m", binary=True)
    assert found.scores.per_label
    assert found.words.endswith("m ends without an activation: its output is read as logits of sigmoids")


@pytest.mark.parametrize(
    ("top", "words"),
    [
        (pooled(dense(1, "softmax")), "a softmax over one unit, which is 1 for every image"),
        (pooled(dense(5, "relu")), r"ends in Dense 'dense.*' with relu: expected logits, a softmax"),
        (pooled(dense(5), layers.LeakyReLU()), "ends in LeakyReLU"),
        (maps(layers.Reshape((2, 3)), layers.Softmax(axis=1)), "over axis 1"),
        (lambda x: x, "is no classifier"),
    ],
)
def test_what_is_no_score_of_classes_is_refused(top, words):
    with pytest.raises(FinetuneError, match=words):
        as_logits(flat(network(top)), name="m.keras")


@pytest.mark.parametrize(
    ("top", "channels", "features"),
    [
        (UNITS["sigmoid"], 6, "pool"),
        (UNITS["sigmoid as an operation"], 6, "pool"),
        (UNITS["sigmoid of a map"], 6, "last"),
        (LABELLED["sigmoids"], 6, "pool"),
        (CLASSES["dense, batch norm, softmax"], 6, "pool"),
        (CLASSES["convolution, flatten, softmax"], 6, "last"),
        (CLASSES["softmax of maps"], 6, "last"),
        (class_maps, 6, "map"),
    ],
)
def test_the_head_is_removed(top, channels, features):
    cut = swap_head(flat(network(top)), None, name="m.keras")
    assert cut.features.output_shape == (None, channels)
    assert f"features: {features}" in cut.words


def test_a_mean_of_softmaxes_has_no_place_to_cut():
    with pytest.raises(FinetuneError, match="name the layer whose output are the features"):
        swap_head(flat(network(CLASSES["mean of softmaxes"])), None, name="m.keras")


@pytest.mark.parametrize("top", [UNITS["sigmoid"], UNITS["logit"]])
def test_one_unit_is_kept_as_two_logits(top):
    model = network(top)
    kept = keep_head(flat(model), 2, name="m.keras")
    z = np.asarray(kept.features(PIXELS, training=False))
    p, expected = np.asarray(ops.softmax(z)), np.asarray(model(PIXELS, training=False))
    np.testing.assert_allclose(p[:, 1:] if top is UNITS["sigmoid"] else z[:, 1:], expected, atol=1e-6)
    assert np.all(z[:, 0] == 0)
    assert "class 1, the second class of the data" in kept.words


def test_sigmoids_are_not_kept_for_a_softmax():
    with pytest.raises(WrongUse, match="ends in independent sigmoids, and a run trains one softmax"):
        keep_head(flat(network(LABELLED["sigmoids"])), 5, name="m.keras")


@pytest.fixture(scope="module")
def two():
    """A model with a map, an embedding and two classifiers, in the order of their keys."""
    return network(
        lambda x: {
            "a_map": x,
            "b_kind": dense(2, "softmax", name="kinds")(pooled()(x)),
            "c_class": dense(5, "softmax", name="classes")(layers.Flatten()(x)),
        }
    )


@pytest.mark.parametrize("named", ["c_class", "classes"])
def test_one_output_is_named(two, named):
    result, _ = scored(choose_output(two, named, name="m.keras"), LABELS)
    expected = np.asarray(two(PIXELS, training=False)["c_class"])
    assert result.correct == int(np.sum(expected.argmax(1) == LABELS))


def test_several_outputs_are_offered_with_their_shapes_classifiers_first(two):
    with pytest.raises(FinetuneError) as caught:
        choose_output(two, None, name="m.keras")
    assert str(caught.value) == (
        "m.keras has 3 outputs: b_kind [None, 2], c_class [None, 5], a_map [None, 3, 3, 6]; choose one with --output "
        "b_kind"
    )
    with pytest.raises(WrongUse, match="no such output: expected one of a_map, b_kind, c_class"):
        choose_output(two, "logits", name="m.keras")
    with pytest.raises(WrongUse, match=r"has one output, dense.*: leave it out"):
        choose_output(network(UNITS["logit"]), "logits", name="m.keras")


def test_a_list_of_one_output_is_that_output():
    model = network(UNITS["logit"])
    assert choose_output(keras.Model(model.inputs, [model.output]), None, name="m.keras").output_shape == (None, 1)


def test_outputs_of_a_model_in_the_model_are_numbered(two):
    inner = keras.Model(two.inputs, list(two.outputs), name="inner")
    images = keras.Input((SIDE, SIDE, 3))
    outer = keras.Model(images, inner(images))
    result, _ = scored(choose_output(outer, "inner:2", name="m.keras"), LABELS)
    assert result.correct == int(np.sum(np.asarray(outer(PIXELS, training=False)[2]).argmax(1) == LABELS))
