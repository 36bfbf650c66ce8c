from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format

from checkpoints.errors import CheckpointError
from checkpoints.formats import Checkpoint, open_checkpoint
from checkpoints.formats.slim import write_slim
from checkpoints.matching.leftovers import TRAINING_LEFTOVERS, training_leftover
from checkpoints.matching.pairing import align_by_layer_order
from checkpoints.matching.transfer import assign


class Slot:
    """A variable that remembers what it was assigned."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.value: Any = None

    def assign(self, value: Any) -> None:
        self.value = value


def opened(arrays: Mapping[str, Any]) -> Checkpoint:
    values = {name: np.asarray(value, np.float32) for name, value in arrays.items()}
    return Checkpoint(Path("a.ckpt"), "slim-v2", {n: v.shape for n, v in values.items()}, values.__getitem__, "ab" * 32)


def test_names_are_the_mapping() -> None:
    targets = {"b/weights": Slot(2), "a/weights": Slot(1, 2)}
    report = assign(opened({"a/weights": [[1, 2]], "b/weights": [3, 4]}), targets, ignore=[])
    assert targets["a/weights"].value.tolist() == [[1, 2]]
    assert targets["b/weights"].value.tolist() == [3, 4]
    assert report.assigned == ("b/weights", "a/weights")
    assert report.summary() == "assigned 2 variables from a.ckpt (slim-v2, sha256 abababababab)"


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_half_and_double_precision_become_float32_as_numpy_rounds_them(dtype: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 1, 8).astype(dtype)
    write_slim(tmp_path / "m", {"conv/weights": values})
    variable = keras.Variable(np.zeros(8, np.float32))
    assign(open_checkpoint(tmp_path / "m"), {"conv/weights": variable}, ignore=[])
    np.testing.assert_array_equal(variable, values.astype(np.float32))


def test_a_misfit_is_told_from_both_sides_and_nothing_is_assigned() -> None:
    file = {f"old/{i}": [0.0] for i in range(11)} | {"same": [1.0], "wide": [[1.0, 2.0]]}
    targets = {"same": Slot(1), "wide": Slot(2, 1), "new/a": Slot(1), "new/b": Slot(3)}
    with pytest.raises(CheckpointError) as caught:
        assign(opened(file), targets, ignore=[])
    assert str(caught.value).splitlines() == [
        "a.ckpt (slim-v2) does not fit the network, nothing was assigned:",
        "  11 only in the file: old/0, old/1, old/2, old/3, old/4, old/5, old/6, old/7 and 3 more",
        "  2 only in the network: new/a, new/b",
        "  1 of another shape in the file: wide is [1, 2], expected [2, 1]",
        "Choose the backbone this file was saved from, or give the file of this backbone.",
    ]
    assert all(slot.value is None for slot in targets.values())


def test_what_training_leaves_behind_is_ignored_with_its_reason() -> None:
    leftovers = {
        "optimizer slots": ["w/Momentum", "w/RMSProp_1", "w/Adam", "w/Ftrl_1", "beta1_power", "train/beta2_power"],
        "moving averages of weights": ["w/ExponentialMovingAverage"],
        "training counters": ["global_step", "train/global_step", "save_counter/.ATTRIBUTES/VARIABLE_VALUE"],
        "zero-debias of moving averages": ["bn/moving_mean/biased", "bn/moving_mean/local_step"],
        "old head": ["net/logits/weights", "net/logits/biases"],
    }
    names = ["w", *(name for group in leftovers.values() for name in group)]
    ignore = [*TRAINING_LEFTOVERS, ("auxiliary head", ()), ("old head", ("net/logits/*",))]
    report = assign(opened(dict.fromkeys(names, 1.0)), {"w": Slot()}, ignore=ignore)
    assert report.ignored == {reason: tuple(group) for reason, group in leftovers.items()}
    assert report.summary().splitlines()[1] == (
        "ignored 14 in the file: 6 optimizer slots, 1 moving averages of weights, 3 training counters, "
        "2 zero-debias of moving averages, 2 old head"
    )
    assert report.to_json()["ignored"]["old head"] == ("net/logits/weights", "net/logits/biases")


def test_what_tensorflows_optimizers_add_is_known() -> None:
    """TF1's, as they name their variables, in a scope too; a TF2 checkpoint keeps its optimizer beside the rest."""
    v1 = tf.compat.v1
    kinds = (
        *(v1.train.AdamOptimizer(0.1), v1.train.AdagradOptimizer(0.1), v1.train.AdadeltaOptimizer(0.1)),
        *(v1.train.FtrlOptimizer(0.1), v1.train.RMSPropOptimizer(0.1), v1.train.MomentumOptimizer(0.1, 0.9)),
    )
    for scope in ("", "train"):
        for kind in kinds:
            with tf.Graph().as_default(), v1.variable_scope(scope):
                weights = v1.get_variable("w", [2], initializer=v1.zeros_initializer())
                kind.minimize(tf.reduce_sum(weights**2), global_step=v1.train.get_or_create_global_step())
                names = {variable.op.name for variable in v1.global_variables()} - {weights.op.name}
            added = {name for name in names if not name.endswith("global_step")}
            assert {training_leftover(name) for name in names - added} == {"training counters"}
            assert added
            assert {training_leftover(name) for name in added} == {"optimizer slots"}, added
    assert training_leftover("global_step") == training_leftover("save_counter") == "training counters"
    assert training_leftover("save_counter/.ATTRIBUTES/VARIABLE_VALUE") == "training counters"
    assert training_leftover("optimizer/_variables/3/.ATTRIBUTES/VARIABLE_VALUE") == "optimizer slots"
    assert training_leftover("a/beta2_power") == "optimizer slots"
    assert training_leftover("dropout/seed_generator/seed_generator_state") == "random states"
    assert training_leftover("dropout/seed_generator_state") == "random states"
    assert training_leftover("resnet_v1_50/mean_rgb") == training_leftover("mean_rgb") == "mean of the training pixels"
    assert training_leftover("conv/weights") is training_leftover("beta3_power") is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("conv/BatchNorm/renorm_mean_weight", "batch renormalisation"),
        ("total_loss/avg", "averages of losses"),
        ("conv/weights_quant/min", "ranges of quantisation-aware training"),
        ("conv/quant/max", "ranges of quantisation-aware training"),
        ("conv/weights/replica_1", "copies of other replicas"),
    ],
)
def test_the_rest_has_its_reason_too(name: str, reason: str) -> None:
    assert training_leftover(name) == reason


@pytest.mark.parametrize(
    "variable",
    [
        *("weights", "biases", "kernel", "bias", "depthwise_weights", "pointwise_weights", "depthwise_kernel"),
        *("pointwise_kernel", "gamma", "beta", "moving_mean", "moving_variance"),
    ],
)
def test_slots_of_an_optimizer_of_ones_own_lie_below_their_variable(variable: str) -> None:
    assert training_leftover(f"conv/{variable}/AdamWeightDecay_1") == "optimizer slots"
    assert training_leftover(f"conv/{variable}") is None


def test_a_wanted_name_is_assigned_even_where_a_pattern_fits_it() -> None:
    target = Slot()
    report = assign(opened({"net/logits": 5.0}), {"net/logits": target}, ignore=[("old head", ("*/logits",))])
    assert target.value == 5
    assert report.ignored == {}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    file, targets = opened({"a": [1.0], "b": [bad]}), {"a": Slot(1), "b": Slot(1)}
    with pytest.raises(CheckpointError, match="NaN or infinity in 1 of 2 variables, nothing was assigned: b"):
        assign(file, targets, ignore=[])
    assert targets["a"].value is None
    assign(file, targets, ignore=[], allow_non_finite=True)
    assert targets["a"].value is not None


def targets_of(model: keras.Model) -> dict[str, Any]:
    return {f"{layer.name}/{variable.name}": variable for layer in model.layers for variable in layer.weights}


def number(model: keras.Model) -> None:
    """Give every variable a value of its own, so that none can take another's place unnoticed."""
    for i, variable in enumerate(model.weights):
        variable.assign(np.full(variable.shape, i, np.float32))


def save_as_keras_2(model: keras.Model, path: Path) -> Path:
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return path


def load(path: Path, model: keras.Model, **ignore: list[str]) -> None:
    file = open_checkpoint(path)
    assign(file, align_by_layer_order(file, targets_of(model)), ignore=list(ignore.items()))


def small(*, head: bool) -> keras.Model:
    """Convolutions and BatchNorms of equal shapes, named by Keras's counters."""
    x = image = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(x))
    x = keras.layers.DepthwiseConv2D(3)(x)
    for _ in range(2):
        x = keras.layers.BatchNormalization(scale=False)(keras.layers.Conv2D(4, 1)(x))
    if head:
        x = keras.layers.Dense(7, name="predictions")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, x)


def test_layers_pair_in_order_as_in_keras_where_counters_gave_them_other_names(tmp_path: Path) -> None:
    source, model = small(head=True), small(head=False)
    number(source)
    path = save_as_keras_2(source, tmp_path / "w.h5")
    load(path, model, head=["predictions/*"])
    whole = small(head=True)
    with h5py.File(path, "r") as file:
        legacy_h5_format.load_weights_from_hdf5_group(file, whole)
    for ours, keras_s, saved in zip(model.weights, whole.weights[:-2], source.weights[:-2], strict=True):
        np.testing.assert_array_equal(ours, keras_s)
        np.testing.assert_array_equal(ours, saved)


def test_layers_pair_by_name_whatever_their_order(shared: Path) -> None:
    file = open_checkpoint(shared / "keras/mobilenet_2_5_224_tf.h5")
    model = keras.applications.MobileNet(weights=None, include_top=False, alpha=0.25, input_shape=(32, 32, 3))
    targets = targets_of(model)
    backwards = {name: targets[name] for name in reversed(list(targets))}
    aligned = align_by_layer_order(file, backwards)
    assert aligned["conv_dw_7/depthwise_kernel"] is targets["conv_dw_7/kernel"]
    assert aligned["conv_pw_7_bn/gamma"] is targets["conv_pw_7_bn/gamma"]
    report = assign(file, aligned, ignore=[("old head", ["conv_preds/*"])])
    assert len(report.assigned) == len(model.weights) == 135
    assert sum(variable.shape.num_elements() for variable in model.weights) == 218_544


def test_slashes_in_a_files_layer_names_are_underscores_in_the_network() -> None:
    file = opened({"conv1/conv/kernel": [1.0], "conv1/bn/beta": [2.0], "conv1/bn/moving_mean": [3.0]})
    slots = {"conv1_bn/beta": Slot(1), "conv1_bn/moving_mean": Slot(1), "conv1_conv/kernel": Slot(1)}
    assign(file, align_by_layer_order(file, slots), ignore=[])
    assert [slot.value.item() for slot in slots.values()] == [2, 3, 1]


def test_a_file_of_another_network_is_refused_not_squeezed_in() -> None:
    few = opened({"conv2d_2/kernel": [1.0], "conv2d_3/kernel": [1.0]})
    three = {f"conv2d_{i}/kernel": Slot(1) for i in (1, 2, 3)}
    with pytest.raises(CheckpointError, match="1 only in the network: conv2d_1/kernel"):
        assign(few, align_by_layer_order(few, three), ignore=[])
    biased = opened({"conv_9/kernel": [1.0], "conv_9/bias": [1.0]})
    plain = {"conv/kernel": Slot(1)}
    with pytest.raises(CheckpointError, match="1 only in the file: conv_9/bias"):
        assign(biased, align_by_layer_order(biased, plain), ignore=[])


@pytest.mark.slow
def test_inception_v3_takes_a_file_with_other_counters(tmp_path: Path) -> None:
    source, model = (
        keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(75, 75, 3)) for _ in range(2)
    )
    assert {layer.name for layer in source.layers if layer.weights}.isdisjoint(layer.name for layer in model.layers)
    number(source)
    load(save_as_keras_2(source, tmp_path / "w.h5"), model)
    for ours, saved in zip(model.weights, source.weights, strict=True):
        np.testing.assert_array_equal(ours, saved)
