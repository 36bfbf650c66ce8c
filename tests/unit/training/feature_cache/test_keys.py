"""A key changes with everything features depend on, and with nothing else."""

import dataclasses

import keras
import numpy as np
import pytest
from PIL import Image

from finetune.data.dataset import Split
from finetune.data.image_files import read_images
from finetune.data.lazy import LazyImages
from finetune.data.preprocessing import find_preprocessing
from finetune.data.sources.tfrecord_example import Keys
from finetune.data.sources.tfrecord_file import Records
from finetune.training.feature_cache import feature_store, keys
from finetune.training.feature_cache.cut import cuts
from tests.support.small_features import CONFIG, classifier, generated, trained

pytestmark = pytest.mark.usefixtures("home")


def network(model):
    return keys.of_network(cuts(model)[0].halves(model)[0])


def changed_variable(path):
    model = classifier()
    (variable,) = (v for v in model.variables if v.path == path)
    value = np.array(variable)
    value.reshape(-1)[0] = np.nextafter(value.reshape(-1)[0], np.inf)
    variable.assign(value)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("path", ["conv1/kernel", "conv2/bias", "bn3/gamma", "bn1/moving_mean", "bn2/moving_variance"])
def test_one_bit_of_one_frozen_weight_is_another_network(path):
    assert network(changed_variable(path)) != network(classifier())


@pytest.mark.slow
def test_the_head_its_size_the_policy_the_decay_and_the_names_do_not_matter():
    reference = network(classifier())
    assert network(classifier()) == reference  # the automatic names count on
    assert network(changed_variable("head.hidden/kernel")) == reference
    assert network(classifier(dataclasses.replace(CONFIG, hidden=5, dropout=0.0))) == reference
    model = classifier()
    for layer in model.layers:
        layer.trainable = layer.name.startswith("head")
        if hasattr(layer, "momentum"):
            layer.momentum = 0.5
    assert network(model) == reference
    assert network(keras.models.clone_model(model)) != reference  # other weights


def test_the_same_weights_in_another_graph_are_another_network():
    layers = keras.layers

    def convolution(x, **given):
        return layers.Conv2D(4, 3, strides=2, name="c", **given)(x)

    digests = []
    for build in (
        convolution,
        lambda x: convolution(x, activation="relu"),
        lambda x: convolution(x, padding="same"),
        lambda x: convolution(x * 2),
        lambda x: convolution(x * 3),
        lambda x: convolution(layers.AveragePooling2D(1)(x)),
        lambda x: layers.ReLU()(convolution(x)),
        lambda x: layers.ReLU(max_value=6)(convolution(x)),
        lambda x: (lambda y: layers.subtract([y, layers.ReLU()(y)]))(convolution(x)),
        lambda x: (lambda y: layers.subtract([layers.ReLU()(y), y]))(convolution(x)),
    ):
        inputs = keras.Input((16, 16, 3))
        model = keras.Model(inputs, build(inputs))
        for variable in model.variables:
            variable.assign(np.full(variable.shape, 0.1))
        digests.append(keys.of_network(model))
    assert len(set(digests)) == len(digests)


def test_pixels_are_told_by_what_comes_out(monkeypatch):
    split = generated().train

    def of(**changes):
        given = {"image_size": 16, "preprocessing": find_preprocessing("unit"), **changes}
        return keys.of_pixels(split, **given)

    reference = of()
    assert of() == reference
    others = [of(image_size=24), of(image_size=8), of(preprocessing=find_preprocessing("torch"))]
    # The same name with other arithmetic is noticed, too.
    others.append(of(preprocessing=dataclasses.replace(find_preprocessing("unit"), scale=1 / 256)))
    assert len({reference, *others}) == 5


def test_the_same_files_with_another_white_are_other_pixels(tmp_path):
    Image.fromarray(np.full((20, 20), 900, np.uint16)).save(tmp_path / "a.png")
    found = {}
    for white in (None, 1023, 4095):
        split = read_images([tmp_path], native=None, white=white).split
        key = keys.of_pixels(split, image_size=8, preprocessing=find_preprocessing("unit"))
        found[key] = int(split.at(8).images[:].max())
    assert list(found.values()) == [round(900 * 255 / white) for white in (65535, 1023, 4095)]


def test_another_image_of_the_same_record_is_other_pixels():
    rows = np.zeros((1, 4), np.int64)
    splits = [
        Split(LazyImages(Records([], [], rows, Keys(image=key), []), np.zeros(1, np.int64), 8), np.zeros(1, np.int64))
        for key in ("image/encoded", "left", "right")
    ]
    assert len({keys.of_pixels(one, image_size=8, preprocessing=find_preprocessing("unit")) for one in splits}) == 3


def test_images_are_named_by_what_they_are():
    split = generated().train
    names = keys.of_images(split)
    assert len(set(names.tolist())) == len(split)
    shuffled = np.random.default_rng(0).permutation(len(split))
    np.testing.assert_array_equal(keys.of_images(split.take(shuffled)), names[shuffled])
    images = split.images.copy()
    images[7, 0, 0, 0] ^= 1
    assert np.flatnonzero(keys.of_images(Split(images, split.labels)) != names).tolist() == [7]
    assert not set(keys.of_mirrored(names).tolist()) & set(names.tolist())


@pytest.mark.slow
def test_another_seed_other_examples_and_another_head_find_the_images_they_share():
    everything = generated()
    fewer = dataclasses.replace(everything, train=everything.train.take(np.arange(99, 29, -1)))
    trained(classifier(), everything, CONFIG)
    config = dataclasses.replace(CONFIG, seed=3, hidden=5, batch_size=10, learning_rate=0.001)
    outcome = trained(classifier(config), fewer, config)
    # The test images in other batches have other batch statistics: 30 in whole batches of 10.
    assert outcome.about["computed"] == 30
    assert outcome.about["read"] == 70 + 20 + 30
    assert [one.about["statistics"] for one in feature_store.entries()].count("batch") == 2


@pytest.mark.slow
@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("config", "model"),
    [
        ({"preprocess": "inception"}, {}),
        ({"cache_precision": "float16"}, {}),
        ({}, {"seed": 1}),
        ({}, {"freeze": ("block3=train", "*")}),
    ],
)
def test_what_differs_shares_nothing(config, model):
    trained(classifier(), generated(), dataclasses.replace(CONFIG, epochs=1))
    assert trained(classifier(**model), generated(), dataclasses.replace(CONFIG, epochs=1, **config)).about["read"] == 0
