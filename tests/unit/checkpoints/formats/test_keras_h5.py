import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import h5py
import numpy as np
import pytest

from checkpoints.catalog.lookup import find_row
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint


def test_keras_files_have_layer_and_variable_names_in_file_order(shared: Path) -> None:
    whole = open_checkpoint(shared / "keras/mobilenet_2_5_224_tf.h5")
    small = open_checkpoint(shared / "keras/mobilenet_2_5_224_tf_no_top.h5")
    assert whole.kind == "keras-h5"
    assert list(small.shapes)[:6] == [
        *("conv1/kernel", "conv1_bn/gamma", "conv1_bn/beta", "conv1_bn/moving_mean", "conv1_bn/moving_variance"),
        "conv_dw_1/depthwise_kernel",
    ]
    assert list(whole.shapes)[:-2] == list(small.shapes)
    assert list(whole.shapes)[-2:] == ["conv_preds/kernel", "conv_preds/bias"]
    assert whole.read("conv_preds/bias").shape == whole.shapes["conv_preds/bias"] == (1000,)


def test_the_keras_file_holds_the_slim_weights_and_as_many_as_the_catalogue_says(shared: Path) -> None:
    keras = open_checkpoint(shared / "keras/mobilenet_2_5_224_tf_no_top.h5")
    slim = open_checkpoint(shared / "slim/v2/mobilenet_v1_0.25_224.ckpt")
    for theirs, ours in [
        ("conv1/kernel", "Conv2d_0/weights"),
        ("conv_dw_3/depthwise_kernel", "Conv2d_3_depthwise/depthwise_weights"),
        ("conv_pw_13_bn/moving_variance", "Conv2d_13_pointwise/BatchNorm/moving_variance"),
    ]:
        np.testing.assert_array_equal(keras.read(theirs), slim.read(f"MobilenetV1/{ours}"))
    spec = find_row("slim/mobilenet_v1_0.25")
    without_head = [
        shape for name, shape in slim.shapes.items() if name != "global_step" and not fnmatchcase(name, spec.head[0])
    ]
    assert sum(map(math.prod, without_head)) == spec.parameters
    assert sum(map(math.prod, keras.shapes.values())) == find_row("keras/mobilenet_0.25").parameters


def write_h5(path: Path, layers: dict[str, dict[str, np.ndarray]], *, group: str | None = None) -> Path:
    with h5py.File(path, "w") as file:
        top = file.create_group(group) if group else file
        top.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, weights in layers.items():
            where = top.create_group(layer)
            where.attrs["weight_names"] = [name.encode() for name in weights]
            for name, value in weights.items():
                where[name] = value
    return path


@pytest.mark.parametrize("group", [None, "model_weights"])
def test_nested_and_repeated_names_of_keras_layers(tmp_path: Path, group: str | None) -> None:
    layers = {
        "input": {},
        "conv1/conv": {"conv1/conv/kernel:0": np.ones(3), "conv1/conv/bias:0": np.zeros(2)},
        "inner": {"a/kernel:0": np.full(1, 5.0), "b/kernel:0": np.full(1, 7.0)},
    }
    checkpoint = open_checkpoint(write_h5(tmp_path / "w.h5", layers, group=group))
    assert list(checkpoint.shapes) == ["conv1/conv/kernel", "conv1/conv/bias", "inner/a/kernel", "inner/b/kernel"]
    assert checkpoint.read("inner/b/kernel") == 7


def test_a_model_in_a_model_of_one_layer_of_each_kind_names_the_layers(tmp_path: Path) -> None:
    weights = {"conv/kernel:0": np.zeros((1, 1, 3, 2)), "bn/gamma:0": np.ones(2), "bn/moving_mean:0": np.zeros(2)}
    checkpoint = open_checkpoint(write_h5(tmp_path / "w.h5", {"base": weights}))
    assert [*checkpoint.shapes] == ["base/conv/kernel", "base/bn/gamma", "base/bn/moving_mean"]


def test_the_names_of_keras_1_are_spelled_as_today(tmp_path: Path) -> None:
    """As in the published files of VGG (`block1_conv1_W_1`) and of the first ResNet50 (`bn_conv1_running_std`)."""
    ones = np.ones(2, np.float32)
    norm = {f"bn_conv1_{name}": ones for name in ("gamma", "beta", "running_mean", "running_std")}
    layers = {"block1_conv1": {"block1_conv1_W_1": ones, "block1_conv1_b_1": ones}, "bn_conv1": norm}
    odd = {"own": {"own_W_x": ones, "other_W": ones, "gamma": ones}}
    assert list(open_checkpoint(write_h5(tmp_path / "x.h5", {**layers, **odd})).shapes) == [
        *("block1_conv1/kernel", "block1_conv1/bias", "bn_conv1/gamma", "bn_conv1/beta", "bn_conv1/moving_mean"),
        *("bn_conv1/moving_variance", "own/own_W_x", "own/other_W", "own/gamma"),
    ]


def test_names_that_keras_split_over_attributes(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "w.h5", {"a": {"a/kernel:0": np.ones(1)}, "b": {"b/kernel:0": np.ones(2)}})
    with h5py.File(path, "r+") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:1], names[1:]
    assert list(open_checkpoint(path).shapes) == ["a/kernel", "b/kernel"]


def _external(file: h5py.File) -> None:
    del file["a/a/kernel:0"]
    file["a/a/kernel:0"] = h5py.ExternalLink("/etc/other.h5", "/x")


def _elsewhere(file: h5py.File) -> None:
    del file["a/a/kernel:0"]
    file.create_dataset("a/a/kernel:0", (4,), "f4", external=[("/etc/hostname", 0, 16)])


def _texts(file: h5py.File) -> None:
    del file["a/a/kernel:0"]
    file["a/a/kernel:0"] = ["text"]


def _group(file: h5py.File) -> None:
    del file["a/a/kernel:0"]
    file.create_group("a/a/kernel:0")


def _absent(file: h5py.File) -> None:
    del file["a"]


def _keras_3(file: h5py.File) -> None:
    del file.attrs["layer_names"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_external, "holds a link at /a/a/kernel:0, perhaps into another file"),
        (_elsewhere, "in another file"),
        (_texts, "expected numbers"),
        (_group, "holds no array at"),
        (_absent, "damaged"),
        (_keras_3, "HDF5 file that holds no weights of Keras"),
    ],
)
def test_hdf5_that_is_not_plain_weights_is_refused(
    tmp_path: Path, change: Callable[[h5py.File], None], reason: str
) -> None:
    path = write_h5(tmp_path / "w.h5", {"a": {"a/kernel:0": np.ones(4, "f4")}})
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(path)
