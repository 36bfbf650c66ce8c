"""The cut lies where it must on real families and any plan; Keras's own check of graphs says what a cut is."""

import importlib
import itertools
from functools import cache

import keras
import numpy as np
import pytest

from finetune.backbone import freezing, networks
from finetune.backbone.freezing import parse_freeze_rule
from finetune.backbone.head import attach_head
from finetune.backbone.networks.network import layers_by_stage
from finetune.batchnorm.policy import parse_bn_rule
from finetune.batchnorm.surgery import adopt
from finetune.errors import FinetuneError
from finetune.training.feature_cache.cut import changes, cuts

SIZE = {"inception_v3": 75}
ARGUMENTS = {
    "resnet_v1": {"units": (2, 1), "width": 8, "scope": "r"},
    "densenet": {"layers": (2, 1, 1, 2), "scope": "d"},
    "inception_v3": {"depth_multiplier": 0.1, "scope": "I"},
    "mobilenet_v1": {"depth_multiplier": 0.25, "scope": "M"},
}


@cache
def built(family):
    network = networks.build(family, image_size=SIZE.get(family, 32), outputs=None, arguments=ARGUMENTS[family])
    model = attach_head(adopt(network.model, unbiased=True), 3, dropout=0.5)
    for variable in model.variables:
        if "seed" not in variable.path:
            rng = np.random.default_rng(len(variable.path))
            variable.assign(rng.uniform(0.5, 1.5, variable.shape) * (0.1 if len(variable.shape) > 1 else 1.0))
    return model, freezing.layer_infos(model, layers_by_stage(network), network.scope)


def planned(family, *, until=None, freeze=(), bn=(), head_dropout=True):
    model, layers = built(family)
    plan = freezing.resolve(
        layers,
        freeze=[parse_freeze_rule(rule) for rule in freeze],
        freeze_until=until,
        bn=[parse_bn_rule(rule) for rule in bn],
    )
    freezing.apply(model, plan, decay=0.9, updates=True)
    return model


def is_a_cut(model, tensor):
    """Keras refuses a model whose output cannot be computed from its input alone."""
    try:
        above = keras.Model(tensor, model.output)
    except ValueError:
        return False
    below = keras.Model(model.input, tensor)
    assert above
    return not any(changes(operation) for operation in below.operations)


CASES = [
    ("resnet_v1", {"freeze": ["*"]}, "r/pool5"),
    ("resnet_v1", {"until": "block1"}, "r/block1/unit_2/bottleneck_v1"),
    ("resnet_v1", {"until": "conv1"}, "r/pool1"),
    # In the middle of a unit: its shortcut is another way past it, so the unit's own input is the last one thing.
    ("resnet_v1", {"freeze": ["r/block1/unit_2/bottleneck_v1/conv3=train", "*"]}, "r/block1/unit_1/bottleneck_v1"),
    # What is frozen above something that trains is no help.
    ("resnet_v1", {"freeze": ["block1/unit_1/*=train", "*"]}, "r/pool1"),
    # A BatchNorm that follows its batch, anywhere below, is where the cut ends.
    (
        "resnet_v1",
        {"freeze": ["*"], "bn": ["block1/unit_2/*/conv1/BatchNorm=stats", "freeze"]},
        "r/block1/unit_1/bottleneck_v1",
    ),
    ("resnet_v1", {"freeze": ["*"], "bn": ["r/conv1/BatchNorm=affine", "freeze"]}, "r/conv1"),
    ("mobilenet_v1", {"freeze": ["*"]}, None),
    ("mobilenet_v1", {"until": "Conv2d_6"}, None),
    ("mobilenet_v1", {"freeze": ["*"], "bn": ["*Conv2d_12_pointwise*=train", "freeze"]}, None),
    ("densenet", {"freeze": ["*"]}, None),
    ("densenet", {"freeze": ["dense_block4=train", "*"]}, None),
    ("densenet", {"freeze": ["dense_block2=train", "*"], "bn": ["dense_block2=train", "freeze"]}, None),
    ("inception_v3", {"freeze": ["*"]}, None),
    ("inception_v3", {"freeze": ["Mixed_7c=train", "*"]}, None),
    ("inception_v3", {"freeze": ["*Mixed_6e/Branch_2*=train", "*"], "bn": ["freeze"]}, None),
]


@pytest.mark.quick_cases(4)
@pytest.mark.parametrize(("family", "rules", "name"), CASES, ids=lambda value: str(value)[:60])
def test_the_latest_tensor_everything_that_changes_depends_on(family, rules, name):
    model = planned(family, **rules)
    best = cuts(model)[0]
    if name is not None:
        assert best.layer == name
    assert is_a_cut(model, best.tensor)
    below, _ = best.halves(model)
    inside = {id(operation) for operation in below.operations}
    for operation in model.operations[::3] if family == "inception_v3" else model.operations:
        if id(operation) not in inside and not isinstance(operation, keras.layers.InputLayer):
            tensor = operation.output
            if is_a_cut(model, tensor):
                later = keras.Model(model.input, tensor)
                # A later one is no smaller, or saves a multiplication: then the best would not be the best.
                skipped = [one for one in later.operations if id(one) not in inside]
                assert not any(len(v.shape) > 1 for one in skipped for v in getattr(one, "weights", []))
                assert np.prod(tensor.shape[1:]) > best.values


@pytest.mark.slow
@pytest.mark.parametrize("family", list(ARGUMENTS))
def test_halves_compute_what_the_whole_does_with_its_own_variables(family):
    model = planned(family, freeze=["*"])
    before = [variable.path for variable in model.variables]
    images = np.random.default_rng(0).normal(size=(4, *model.input_shape[1:])).astype(np.float32)
    whole = np.array(model(images, training=False))
    for cut in cuts(model):
        below, above = cut.halves(model)
        np.testing.assert_array_equal(np.array(above(below(images, training=False), training=False)), whole)
        assert {id(v) for v in (*below.variables, *above.variables)} == {id(v) for v in model.variables}
    assert [variable.path for variable in model.variables] == before
    assert keras.models.clone_model(model).count_params() == model.count_params()


def test_later_cuts_come_first_and_earlier_ones_are_smaller():
    found = cuts(planned("densenet", freeze=["*"]))
    assert len(found) >= 1
    for later, earlier in itertools.pairwise(found):
        assert later.values > earlier.values
        assert later.multiplications > earlier.multiplications
    for cut in found:
        assert cut.multiplications + cut.above == found[0].multiplications + found[0].above


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({}, "r/conv1 trains"),
        ({"freeze": ["conv1=train", "*"]}, "r/conv1 trains"),
        ({"freeze": ["*"], "bn": ["train"]}, None),
    ],
)
def test_full_fine_tuning_has_none_and_says_what_is_in_the_way(rules, words):
    model = planned("resnet_v1", **rules)
    if words is None:  # the first convolution alone lies below the first BatchNorm
        assert cuts(model)[0].layer == "r/conv1"
        return
    with pytest.raises(FinetuneError, match=words):
        cuts(model)


def test_padding_and_pooling_are_left_where_the_value_is_smaller():
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, name="conv", trainable=False)(inputs)
    x = keras.layers.ZeroPadding2D(5, name="pad")(x)
    x = keras.layers.Conv2D(2, 3, name="top")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, x)
    assert [cut.layer for cut in cuts(model)] == ["conv"]
    model.get_layer("top").trainable = False
    # Nothing trains at all: there is nothing to compute features for.
    with pytest.raises(FinetuneError, match="nothing trains"):
        cuts(model)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (keras.layers.Dropout(0.3), "random"),
        (keras.layers.Dropout(0.0), None),
        (keras.layers.GaussianNoise(0.1), "random"),
        (keras.layers.RandomFlip(), "random"),
        (keras.layers.SpectralNormalization(keras.layers.Conv2D(2, 1), trainable=False), "moves"),
        (keras.layers.BatchNormalization(), "trains"),
        (keras.layers.BatchNormalization(scale=False, center=False), "moves"),
        (keras.layers.BatchNormalization(trainable=False), None),
        (keras.layers.Conv2D(2, 1), "trains"),
        (keras.layers.Conv2D(2, 1, trainable=False), None),
        (keras.layers.Rescaling(2.0), None),
        (keras.layers.TimeDistributed(keras.layers.Dropout(0.2)), "random"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_what_changes_in_training(layer, reason):
    layer(np.zeros((2, 4, 4, 3), np.float32), training=False)
    found = changes(layer)
    assert found is None if reason is None else reason in found


def test_a_layer_of_ones_own_that_knows_of_training_is_not_trusted():
    class Odd(keras.layers.Layer):
        def call(self, inputs, training=False):
            return inputs * 2 if training else inputs

    class Plain(keras.layers.Layer):
        def call(self, inputs):
            return inputs * 2

    for layer, trusted in ((Odd(), False), (Plain(), True)):
        layer(np.zeros((1, 2)))
        assert (changes(layer) is None) == trusted


def test_stochastic_depth_draws_though_it_keeps_no_state() -> None:
    """Keras's layer of ConvNeXt: its random numbers come from no seed variable that could be seen."""
    module = importlib.import_module("keras.src.applications.convnext")
    assert changes(module.StochasticDepth(0.1)) == "draws random numbers"
    assert changes(module.StochasticDepth(0.0)) is None
