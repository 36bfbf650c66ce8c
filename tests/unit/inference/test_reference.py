"""The original runs the very file, leaves nothing behind, and a network that computes something else is found out."""

import dataclasses
import importlib.util
import json
import logging
import re
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from checkpoints.catalog.lookup import find_row
from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import write_slim
from finetune._version import install_line
from finetune.backbone import load_backbone, networks
from finetune.backbone.file_names import network_entries
from finetune.batchnorm.surgery import BatchNormOptions
from finetune.cli import main
from finetune.errors import FinetuneError, WrongUse
from finetune.inference import reference, verification
from tests.support.places import ROOT, SHARED
from tests.support.thin_rows import fit_of, random_values, thin

real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real weights and photos: {SHARED} is absent")


@pytest.fixture(scope="module")
def slim_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thin resnet_v1 of random weights, as slim's Saver would have it, with what training leaves."""
    prefix = tmp_path_factory.mktemp("slim") / "model.ckpt"
    spec = thin("resnet_v1")
    network = networks.build(spec.family, image_size=32, outputs=spec.outputs, arguments=spec.arguments)
    write_slim(prefix, {**random_values(network.model), "global_step": np.array(7, np.int64)})
    return prefix


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """`slim/resnet_v1_50` is a thin network at 64 px for the length of a test."""
    spec = dataclasses.replace(thin("resnet_v1"), image_size=64)
    network = networks.build(spec.family, image_size=32, outputs=spec.outputs, arguments=spec.arguments)
    entries = tuple(network_entries(network.model, source="slim"))
    monkeypatch.setattr(verification, "find_row", lambda name: spec)
    monkeypatch.setattr(verification, "structures", lambda: {spec.id: entries})


@pytest.mark.slow
def test_the_network_is_its_original(slim_file: Path, row: None) -> None:
    verified = verification.verify("slim/resnet_v1_50", checkpoint=slim_file)
    agreement = verified.agreement
    assert agreement is not None
    assert agreement.name.startswith("tf_slim 1.")
    assert (agreement.outputs, agreement.images) == ("logits", "4 generated images")
    assert agreement.share < 1e-5
    assert agreement.scale > 1e-3
    verified.check()


@pytest.mark.slow
def test_a_network_that_computes_something_else_fails(
    slim_file: Path, row: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = load_backbone
    monkeypatch.setattr(
        verification, "load_backbone", lambda *args, **kw: load(*args, **kw, batchnorm=BatchNormOptions(epsilon=1e-3))
    )
    result = CliRunner().invoke(main, ["backbones", "verify", "slim/resnet_v1_50", "--checkpoint", str(slim_file)])
    assert result.exit_code == 1
    assert "reference: tf_slim" in result.stdout
    assert "is not what tf_slim" in result.stderr
    assert "expected at most 0.0001" in result.stderr
    as_json = CliRunner().invoke(main, f"backbones verify slim/resnet_v1_50 --json --checkpoint {slim_file}".split())
    found = json.loads(as_json.stdout)["reference"]
    assert (as_json.exit_code, found["agrees"]) == (1, False)
    assert found["share"] == pytest.approx(found["difference"] / found["scale"])
    assert found["share"] > 1e-4


def test_without_tf_slim_the_command_to_install_it_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf_slim" else find_spec(name))
    monkeypatch.setattr(verification.store, "locate", None)
    for name in ("resnet_v1_50", str(ROOT / "checkpoints" / "bundled" / "resnet_v1_demo.ckpt")):
        with pytest.raises(FinetuneError, match="tf_slim is not installed: " + re.escape(install_line("slim"))):
            verification.verify(name)


def test_nan_is_no_agreement() -> None:
    agreement = verification.Agreement("x", "logits", "1 photo", difference=float("nan"), scale=float("nan"))
    assert not agreement.holds
    assert not dataclasses.replace(agreement, difference=1.0, scale=0.0).holds


@pytest.mark.slow
def test_running_slim_leaves_nothing_behind(slim_file: Path) -> None:
    def state() -> dict[str, object]:
        left, right = tf.constant([1.0, 2.0]), tf.constant([1.0, 3.0])
        return {
            "eager": tf.executing_eagerly(),
            "tensors compare by value": np.asarray(left == right).tolist(),
            "keras": (tf.keras.__version__, keras.backend.backend(), keras.config.image_data_format()),
            "policy": keras.config.dtype_policy().name,
            "variables": (tf.compat.v1.resource_variables_enabled(), tf.compat.v1.control_flow_v2_enabled()),
            "handlers": list(logging.getLogger().handlers),
            "warnings": len(warnings.filters),
            "default graph": tf.compat.v1.get_default_graph() is reference.tf.compat.v1.get_default_graph(),
            "learning phase": keras.layers.BatchNormalization.__module__,
        }

    before = state()
    spec = thin("resnet_v1")
    images = np.random.default_rng(0).normal(0, 1, (2, 32, 32, 3)).astype(np.float32)
    first = reference.run(spec, open_checkpoint(slim_file), images, outputs=spec.outputs)
    assert state() == before
    assert "tf_keras" in sys.modules
    assert keras.__version__.startswith("3.")
    np.testing.assert_array_equal(first, reference.run(spec, open_checkpoint(slim_file), images, outputs=spec.outputs))
    # Keras 3 trains as it did before.
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)


@pytest.mark.slow
def test_features_where_there_is_no_head(tmp_path: Path) -> None:
    spec = thin("resnet_v2")
    network = networks.build(spec.family, image_size=33, outputs=None, arguments=spec.arguments)
    write_slim(tmp_path / "model.ckpt", random_values(network.model))
    images = np.random.default_rng(0).normal(0, 1, (2, 33, 33, 3)).astype(np.float32)
    theirs = reference.run(spec, open_checkpoint(tmp_path / "model.ckpt"), images, outputs=None)
    ours = np.asarray(network.model(images, training=False))
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.slow
def test_a_scope_around_the_network_is_given_to_the_saver(tmp_path: Path) -> None:
    spec = thin("resnet_v1")
    network = networks.build(spec.family, image_size=33, outputs=5, arguments=spec.arguments)
    values = random_values(network.model)
    write_slim(tmp_path / "model.ckpt", {f"tower/{name}": array for name, array in values.items()})
    assert fit_of(tmp_path / "model.ckpt", spec).exact
    images = np.random.default_rng(0).normal(0, 1, (2, 33, 33, 3)).astype(np.float32)
    opened = open_checkpoint(tmp_path / "model.ckpt")
    theirs = reference.run(spec, opened, images, outputs=5, names={name: f"tower/{name}" for name in values})
    ours = np.asarray(network.model(images, training=False))
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
    with pytest.raises(reference.NoReference, match="Saver does not restore it"):
        reference.run(spec, opened, images, outputs=5)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_keras_loads_its_own_files_into_its_own_network(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{ending}"
    original = keras.applications.MobileNet(
        weights=None, alpha=0.25, classes=1000, classifier_activation=None, input_shape=(224, 224, 3)
    )
    rng = np.random.default_rng(0)
    for variable in original.weights:
        if variable.name in ("moving_mean", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    original.save_weights(path) if ending == ".weights.h5" else original.save(path)
    verified = verification.verify(str(path))  # by its path: the row is found
    assert (verified.spec.id, verified.agreement.name[:18]) == ("keras/mobilenet_0.25", "keras.applications")
    verified.check()


@pytest.mark.slow
def test_what_no_library_builds_says_so(tmp_path: Path) -> None:
    spec = find_row("slim/mobilenet_v1_0.25")
    network = networks.build(spec.family, image_size=32, outputs=7, arguments=spec.arguments)
    write_slim(tmp_path / "model.ckpt", random_values(network.model))
    verified = verification.verify(str(tmp_path / "model.ckpt"))
    assert verified.agreement is None
    assert "reference: no reference installed for slim/mobilenet_v1_0.25" in verified.summary()
    verified.check()
    with pytest.raises(WrongUse, match=r"has not the 1001 published logits of slim/mobilenet_v1_0\.25 \(7 outputs\)"):
        verification.verify(str(tmp_path / "model.ckpt"), photos=tmp_path)
    with pytest.raises(WrongUse, match="is a file, and so is --checkpoint"):
        verification.verify(str(tmp_path / "model.ckpt"), checkpoint=tmp_path / "model.ckpt")


@pytest.mark.slow
@real
@pytest.mark.parametrize(
    ("path", "name", "library"),
    [
        ("keras/mobilenet_2_5_224_tf.h5", "keras/mobilenet_0.25", "keras.applications"),
        ("keras/mobilenet_2_5_224_tf_no_top.h5", "keras/mobilenet_0.25", "keras.applications"),
        ("slim/v1/mobilenet_v1_0.25_224.ckpt", "slim/mobilenet_v1_0.25", None),
        ("slim/v2/mobilenet_v1_0.25_224.ckpt", "slim/mobilenet_v1_0.25", None),
    ],
)
def test_published_files_are_known_by_their_path(path: str, name: str, library: str | None) -> None:
    result = CliRunner().invoke(main, ["backbones", "verify", str(SHARED / "checkpoints" / path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["backbone"] == name
    if library is None:
        assert found["reference"] is None
        assert "no reference installed" in found["no_reference"]
    else:
        assert found["reference"]["name"].startswith(library)
        assert 0 <= found["reference"]["share"] < 1e-5
        assert found["reference"]["scale"] > 1


def test_a_damaged_photo_is_named_or_left_out(tmp_path: Path) -> None:
    for number in (7, 9):
        Image.fromarray(np.full((40, 40, 3), number, np.uint8)).save(tmp_path / f"{number:03d}_x.png")
    (tmp_path / "008_x.png").write_bytes(b"no image")
    with pytest.raises(FinetuneError, match=r"1 of 3 images cannot be used: .*008_x\.png.* give --skip-bad-images"):
        verification.read_photos(tmp_path)
    assert verification.read_photos(tmp_path, skip_bad=True).labels.tolist() == [7, 9]


def test_a_folder_without_photos_is_said(tmp_path: Path) -> None:
    (tmp_path / "dog.jpg").write_bytes(b"not named by its class")
    with pytest.raises(FinetuneError, match=r"holds no photos: expected files named like 207_golden_retriever\.jpg"):
        verification.read_photos(tmp_path)
