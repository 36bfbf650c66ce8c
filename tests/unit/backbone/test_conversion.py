"""Weights go from one format into every other and come back to the bit, whatever the network."""

from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from checkpoints.catalog.lookup import BackboneSpec, find_row
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import write_slim
from finetune.backbone import networks
from finetune.backbone.conversion import convert, transcribe
from finetune.backbone.networks.names import keras_variables
from finetune.errors import FinetuneError, WrongUse
from tests.support.thin_rows import THIN, fit_of, random_values, thin

LEFTOVERS = {
    "global_step": np.array(7, np.int64),
    "{scope}/conv/weights/Momentum": np.ones((1, 1, 3, 8), np.float32),
    "{scope}/conv/weights/ExponentialMovingAverage": np.ones((1, 1, 3, 8), np.float32),
}


def written(spec: BackboneSpec, prefix: Path, outputs: int | None) -> dict[str, np.ndarray]:
    """A slim checkpoint of random weights, with what training leaves beside them; returns the weights."""
    network = networks.build(spec.family, image_size=spec.least_size, outputs=outputs, arguments=spec.arguments)
    values = random_values(network.model)
    scope = spec.arguments["scope"]
    write_slim(prefix, {**values, **{name.format(scope=scope): array for name, array in LEFTOVERS.items()}})
    return values


def arrays(path: Path) -> dict[str, np.ndarray]:
    opened = open_checkpoint(path)
    return {name: opened.read(name) for name in opened.shapes}


def assert_bit_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    different = [name for name in expected if found[name].tobytes() != expected[name].tobytes()]
    assert not different
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


SLOW = ("vgg", "mobilenet_v1", "inception_v1", "inception_v2", "inception_v3", "densenet")


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in THIN]
)
def test_slim_to_keras_and_back_is_bit_equal(family: str, tmp_path: Path) -> None:
    spec = thin(family)
    values = written(spec, tmp_path / "first.ckpt", outputs=5)
    for source, out in (("first.ckpt", "a.weights.h5"), ("a.weights.h5", "b.ckpt"), ("a.weights.h5", "c.keras")):
        done = transcribe(open_checkpoint(tmp_path / source), fit_of(tmp_path / source, spec), tmp_path / out)
        assert (done.outputs, done.variables) == (5, len(values))
    transcribe(open_checkpoint(tmp_path / "c.keras"), fit_of(tmp_path / "c.keras", spec), tmp_path / "d.ckpt")
    assert_bit_equal(arrays(tmp_path / "b.ckpt"), values)
    assert_bit_equal(arrays(tmp_path / "d.ckpt"), values)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v4", "inception_resnet_v2", "resnet_v1_152", "resnet_v2_50"])
def test_full_networks_come_back_bit_equal(name: str, tmp_path: Path) -> None:
    spec = find_row(f"slim/{name}")
    values = written(spec, tmp_path / "first.ckpt", outputs=spec.outputs)
    convert(tmp_path / "first.ckpt", tmp_path / "a.weights.h5")
    convert(tmp_path / "a.weights.h5", tmp_path / "b.keras")
    done = convert(tmp_path / "b.keras", tmp_path / "c.ckpt")
    assert done.backbone == spec.id
    assert_bit_equal(arrays(tmp_path / "c.ckpt"), values)


def test_what_is_not_carried_over_is_named(tmp_path: Path) -> None:
    spec = thin("resnet_v1")
    written(spec, tmp_path / "first.ckpt", outputs=5)
    opened = open_checkpoint(tmp_path / "first.ckpt")
    done = transcribe(opened, fit_of(tmp_path / "first.ckpt", spec), tmp_path / "a.keras")
    assert done.not_carried == {
        "training counters": ("global_step",),
        "optimizer slots": ("resnet_v1_50/conv/weights/Momentum",),
        "moving averages of weights": ("resnet_v1_50/conv/weights/ExponentialMovingAverage",),
    }
    assert "not carried over: 1 training counters (global_step)" in done.summary()


@pytest.mark.slow
def test_without_a_head_there_is_none_afterwards(tmp_path: Path) -> None:
    spec = thin("resnet_v2")
    values = written(spec, tmp_path / "first.ckpt", outputs=None)
    done = transcribe(
        open_checkpoint(tmp_path / "first.ckpt"), fit_of(tmp_path / "first.ckpt", spec), tmp_path / "a.keras"
    )
    assert done.outputs is None
    transcribe(open_checkpoint(tmp_path / "a.keras"), fit_of(tmp_path / "a.keras", spec), tmp_path / "b.ckpt")
    assert_bit_equal(arrays(tmp_path / "b.ckpt"), values)


@pytest.mark.slow
def test_a_dense_head_becomes_slims_convolution(tmp_path: Path) -> None:
    spec = thin("resnet_v1")
    network = networks.build("resnet_v1", image_size=32, outputs=None, arguments=spec.arguments)
    values = random_values(network.model)
    head = keras.layers.Dense(4, name="head.logits")
    keras.Model(network.model.input, head(network.model.output)).save(tmp_path / "run.keras")
    done = transcribe(
        open_checkpoint(tmp_path / "run.keras"), fit_of(tmp_path / "run.keras", spec), tmp_path / "out.ckpt"
    )
    assert done.outputs == 4
    kernel, bias = np.asarray(head.kernel), np.asarray(head.bias)
    logits = {"resnet_v1_50/logits/weights": kernel[None, None], "resnet_v1_50/logits/biases": bias}
    assert_bit_equal(arrays(tmp_path / "out.ckpt"), {**values, **logits})


def test_a_head_of_two_layers_is_refused(tmp_path: Path) -> None:
    spec = thin("resnet_v1")
    network = networks.build("resnet_v1", image_size=32, outputs=None, arguments=spec.arguments)
    x = keras.layers.Dense(6, name="head.hidden")(network.model.output)
    keras.Model(network.model.input, keras.layers.Dense(4, name="head.logits")(x)).save(tmp_path / "run.keras")
    with pytest.raises(FinetuneError, match=r"head\.hidden/kernel.*one layer.*train without --hidden"):
        transcribe(open_checkpoint(tmp_path / "run.keras"), fit_of(tmp_path / "run.keras", spec), tmp_path / "out.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["run.keras"]


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """`keras.applications.MobileNet` as Keras itself saves it, and its values by our names."""
    path = tmp_path_factory.mktemp("keras") / "mobilenet.weights.h5"
    original = keras.applications.MobileNet(weights=None, alpha=0.25, classes=9, classifier_activation=None)
    for variable in original.weights:
        variable.assign(np.random.default_rng(0).uniform(0.5, 1.5, variable.shape))
    original.save_weights(path)
    return path, {name: np.asarray(variable) for name, variable in keras_variables(original).items()}


@pytest.mark.slow
def test_keras_networks_go_between_keras_formats(keras_file: tuple[Path, dict], tmp_path: Path) -> None:
    path, values = keras_file
    done = convert(path, tmp_path / "new" / "a.keras")
    assert (done.backbone, done.outputs) == ("keras/mobilenet_0.25", 9)
    convert(tmp_path / "new" / "a.keras", tmp_path / "b.weights.h5")
    with h5py.File(path) as before, h5py.File(tmp_path / "b.weights.h5") as after:
        keys: list[str] = []
        before.visititems(lambda key, node: keys.append(key) if isinstance(node, h5py.Dataset) else None)
        assert len(keys) == len(values)
        assert all(before[key][()].tobytes() == after[key][()].tobytes() for key in keys)
    # Keras itself reads both.
    model = keras.models.load_model(tmp_path / "new" / "a.keras")
    for name, variable in keras_variables(model).items():
        np.testing.assert_array_equal(variable, values[name])


@pytest.mark.slow
def test_keras_networks_have_no_slim_names(keras_file: tuple[Path, dict], tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match=r"keras/mobilenet_0\.25, which has no slim names"):
        convert(keras_file[0], tmp_path / "model.ckpt")
    assert not list(tmp_path.iterdir())


def test_tf_checkpoints_are_copied_whole(tmp_path: Path) -> None:
    everything = {"any/weights": np.arange(6, dtype=np.float16).reshape(2, 3), "global_step": np.array(3, np.int64)}
    write_slim(tmp_path / "old.ckpt", everything)
    done = convert(tmp_path / "old.ckpt", tmp_path / "new.ckpt")
    assert (done.backbone, done.variables) == (None, 2)
    copied = arrays(tmp_path / "new.ckpt")
    assert {name: (array.dtype, array.tobytes()) for name, array in copied.items()} == {
        name: (array.dtype, array.tobytes()) for name, array in everything.items()
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("there.keras", "already there and is not overwritten"),
        ("model.ckpt", r"model\.ckpt\.index is already there"),
        ("x.h5", r"ends in \.h5, which is not written: expected NAME\.weights\.h5"),
        ("there.keras/deeper.keras", "is a file, not a directory"),
    ],
)
def test_a_place_that_will_not_do_is_said_before_reading(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "there.keras").write_text("mine")
    (tmp_path / "model.ckpt.index").write_text("mine")
    with pytest.raises(WrongUse, match=words):
        convert(tmp_path / "missing.ckpt", tmp_path / name)
    assert (tmp_path / "there.keras").read_text() == (tmp_path / "model.ckpt.index").read_text() == "mine"


@pytest.mark.slow
def test_values_float32_cannot_keep_are_refused(tmp_path: Path) -> None:
    spec = thin("mobilenet_v1")
    values = written(spec, tmp_path / "first.ckpt", outputs=3)
    name = "MobilenetV1/Conv2d_0/weights"
    write_slim(tmp_path / "double.ckpt", {**values, name: values[name].astype(np.float64) + 1e-12})
    with pytest.raises(CheckpointError, match="as float64, which float32 cannot keep"):
        convert(tmp_path / "double.ckpt", tmp_path / "out.keras")
    assert not (tmp_path / "out.keras").exists()


def test_a_file_that_fits_nothing_names_the_nearest(tmp_path: Path) -> None:
    spec = thin("mobilenet_v1")
    values = written(spec, tmp_path / "first.ckpt", outputs=3)
    values.pop("MobilenetV1/Conv2d_0/weights")
    write_slim(tmp_path / "part.ckpt", values)
    with pytest.raises(CheckpointError, match=r"nearest is slim/mobilenet_v1_0\.25: 1 missing"):
        convert(tmp_path / "part.ckpt", tmp_path / "out.keras")
