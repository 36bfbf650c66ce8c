"""The checkpoint a model was fine-tuned from: its layers are found whatever the file calls them."""

import keras
import numpy as np
import pytest

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import adopt
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.targets.target import read_history
from finetune.errors import FinetuneError


def network(prefix="", *, widths=(3, 4), center=True):
    image = keras.Input((8, 8, 3))
    x = image
    for index, width in enumerate(widths):
        x = keras.layers.Conv2D(width, 3, name=f"{prefix}conv{index}")(x)
        x = keras.layers.BatchNormalization(center=center, name=f"{prefix}bn{index}" if prefix else None)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(2, name=f"{prefix}top")(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, one.shape) for one in model.get_weights()])
    return model


def adopted(model):
    return KerasSubject(adopt(model, unbiased=False))


def bn(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def expect(found, model):
    assert list(found.source.values()) != []
    for layer, (mean, variance) in zip(bn(model), found.source.values(), strict=True):
        np.testing.assert_array_equal(mean, layer.moving_mean)
        np.testing.assert_array_equal(variance, layer.moving_variance)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_every_keras_format_tells_statistics_and_that_gamma_and_beta_stayed(tmp_path, suffix):
    model = network("a_")
    path = tmp_path / f"source{suffix}"
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    found = read_history(path, adopted(model), Facts())
    expect(found, model)
    assert found.facts.affine_moved is False
    assert found.facts.base_moved is False
    model.layers[-1].kernel.assign(np.zeros(model.layers[-1].kernel.shape))
    assert read_history(path, adopted(model), Facts()).facts.base_moved is False  # the head alone
    model.layers[3].kernel.assign(np.nextafter(np.array(model.layers[3].kernel), 9))
    moved = read_history(path, adopted(model), Facts(base_moved=False)).facts
    assert (moved.base_moved, moved.affine_moved) == (True, False)


def test_a_moved_beta_is_seen_and_the_facts_say_so(tmp_path):
    model = network("a_")
    path = tmp_path / "source.weights.h5"
    model.save_weights(path)
    bn(model)[1].beta.assign(np.nextafter(np.array(bn(model)[1].beta), 9))
    history = read_history(path, adopted(model), Facts(decay=0.9))
    assert history.facts == Facts(decay=0.9, affine_moved=True, base_moved=True)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_counted_layer_names_are_matched_in_their_order(tmp_path, suffix):
    built = network()
    path = tmp_path / f"source{suffix}"
    built.save_weights(path) if suffix == ".weights.h5" else built.save(path)
    keras.layers.BatchNormalization()(np.zeros((1, 4)))  # the names of the next ones overlap with the file's
    again = network()
    renamed = adopted(again)
    expect(read_history(path, renamed, Facts()), built)


def test_layers_without_beta_still_have_statistics(tmp_path):
    model = network("a_", center=False)
    path = tmp_path / "source.weights.h5"
    model.save_weights(path)
    found = read_history(path, adopted(model), Facts())
    expect(found, model)
    assert found.facts.affine_moved is None


def test_another_network_is_refused_by_name(tmp_path):
    path = tmp_path / "source.weights.h5"
    network("other_", widths=(5, 6, 7)).save_weights(path)
    with pytest.raises(FinetuneError, match=r"has none of the model's BN layers.*a_bn0.*other_bn0"):
        read_history(path, adopted(network("a_")), Facts())


@pytest.mark.slow
def test_overlapping_counted_names_are_not_taken_for_the_same_layers(tmp_path):
    keras.utils.clear_session()
    built = network(widths=(4, 4))  # batch_normalization, batch_normalization_1
    path = tmp_path / "source.weights.h5"
    built.save_weights(path)
    keras.utils.clear_session()
    keras.layers.BatchNormalization()
    again = network(widths=(4, 4))  # batch_normalization_1, batch_normalization_2
    names = [layer.name for layer in bn(again)]
    assert names == ["batch_normalization_1", "batch_normalization_2"]
    expect(read_history(path, adopted(again), Facts()), built)
