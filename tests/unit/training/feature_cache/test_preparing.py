"""Where features cannot be cached a run says why and goes on with images, or fails if it was told to cache them."""

import dataclasses
import re

import keras
import pytest

from finetune.batchnorm.surgery import adopt
from finetune.errors import WrongUse
from finetune.training.feature_cache import feature_store
from finetune.training.feature_cache.cut import cuts
from tests.support import small_features
from tests.support.small_features import CONFIG, classifier, generated, trained

pytestmark = pytest.mark.usefixtures("home")


def changed(**values):
    return dataclasses.replace(CONFIG, **values)


def words(outcome):
    assert outcome.about is None
    return " ".join(outcome.said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "rules", "reason"),
    [
        ({"augment": "crop-flip"}, {}, "changed at random, --augment crop-flip"),
        ({"augment": "resized-crop-flip"}, {}, "changed at random, --augment resized-crop-flip"),
        ({"mixup": 0.2}, {}, "changed at random, --mixup: without, they would be"),
        ({"augment": "crop"}, {}, "changed at random, --augment crop: with none, or flip, they would be"),
        ({"augment": "flip", "flip_vertical": True}, {}, "changed at random, --flip-vertical: without, they would be"),
        ({}, {"freeze": ("conv1=train", "*")}, "conv1 trains"),
        ({}, {"freeze": ("*",), "bn": ("train",)}, "little work"),
        ({"cache_budget": "1 kB"}, {}, r"more than --cache-budget \(0.0 MiB\)"),
        ({"preprocess": "tests.support.small_features:brightened"}, {}, "your own code"),
    ],
)
def test_auto_goes_on_without_and_says_why(config, rules, reason, monkeypatch):
    monkeypatch.setattr(small_features, "brightened", lambda pixels: pixels / 200, raising=False)
    config = changed(cache_features="auto", epochs=1, **config)
    assert re.search(reason, words(trained(classifier(**rules), generated(), config)))
    assert feature_store.entries() == []
    if "little work" not in reason and "code" not in reason:
        with pytest.raises(WrongUse, match="--cache-features on: "):
            trained(classifier(**rules), generated(), dataclasses.replace(config, cache_features="on"))


@pytest.mark.slow
def test_where_nothing_is_frozen_nothing_is_said_unless_it_was_asked_for():
    outcome = trained(classifier(freeze=()), generated(), changed(cache_features="auto", epochs=1))
    assert (outcome.said, outcome.about) == ([], None)
    with pytest.raises(WrongUse, match=r"--cache-features on: .* conv1 trains"):
        trained(classifier(freeze=()), generated(), changed(epochs=1))


def test_off_says_nothing_and_leaves_nothing(home):
    outcome = trained(classifier(), generated(), changed(cache_features="off", epochs=1))
    assert (outcome.said, outcome.about) == ([], None)
    assert not home.exists()


def test_a_place_that_cannot_be_written_is_no_reason_to_fail(home):
    home.mkdir()
    (home / "features").write_text("in the way")
    assert f"Not a directory: {home}/features" in words(
        trained(classifier(), generated(), changed(cache_features="auto", epochs=1))
    )
    with pytest.raises(NotADirectoryError):
        trained(classifier(), generated(), changed(epochs=1))


@pytest.mark.slow
def test_where_only_the_batch_statistics_do_not_fit_they_are_computed_from_images():
    row = 24 * 4 + 16
    outcome = trained(classifier(), generated(), changed(cache_budget=str(160 * row)))
    assert outcome.about["computed"] == 150
    assert "under batch statistics are not cached" in outcome.said[0]
    assert outcome.test == trained(classifier(), generated(), changed(cache_features="off")).test


@pytest.mark.slow
def test_an_earlier_smaller_cut_is_taken_where_the_latest_does_not_fit():
    # As DenseNets have it: the map grows within a block.
    def grown():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((16, 16, 3))
        x = keras.layers.Conv2D(2, 5, strides=4, name="conv1", trainable=False)(inputs)
        x = keras.layers.Conv2D(30, 3, padding="same", name="conv2", trainable=False)(x)
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 1, name="top")(x))
        return adopt(keras.Model(inputs, keras.layers.Dense(3)(x)), unbiased=True)

    assert [cut.layer for cut in cuts(grown())] == ["conv2", "conv1"]
    small = trained(grown(), generated(), changed(cache_budget="20 kB", epochs=1))
    large = trained(grown(), generated(), changed(epochs=1))
    assert (small.about["cut"], large.about["cut"]) == ("conv1", "conv2")
    assert small.test["moving"].correct == large.test["moving"].correct
