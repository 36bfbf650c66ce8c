"""The way back: what was fine-tuned here, tf_slim restores by itself and computes the same."""

import importlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from checkpoints.catalog.lookup import BackboneSpec, find_row
from finetune.backbone import networks
from finetune.backbone.head import attach_head
from finetune.errors import FinetuneError, WrongUse
from finetune.inference import reference
from finetune.inference.export import to_slim as module
from finetune.inference.export.write import export
from tests.support.shared import Printed
from tests.support.thin_rows import fit_of, random_values, thin

NAMES = ["daisy", "rose: red", "Löwenzahn"]
SIZES = {"inception_v1": 193, "inception_v3": 139}


def made_run(folder: Path, spec: BackboneSpec, size: int) -> keras.Model:
    """A finished run's files around a network with random weights and a head of its own."""
    network = networks.build(spec.family, image_size=size, outputs=None, arguments=spec.arguments)
    random_values(network.model)
    model = attach_head(network.model, len(NAMES))
    rng = np.random.default_rng(1)
    for variable in model.get_layer("head.logits").weights:
        variable.assign(rng.normal(0, 1, variable.shape))
    folder.mkdir()
    model.save(folder / "model.keras")
    config = {"format_version": 1, "backbone": spec.id, "image_size": size, "preprocess": spec.preprocessing}
    (folder / "config.json").write_text(json.dumps(config))
    result = {
        "class_names": NAMES,
        "steps": 42,
        "proof": {"holds": True, "moved_though_frozen": [], "moving_variables": 2},
    }
    (folder / "result.json").write_text(json.dumps(result))
    return model


def exported_slim(run: Path, out: Path) -> Any:
    """Without a look at test images: what tf_slim makes of the checkpoint is looked at here."""
    (exported,) = export(run, out, forms=["slim"], evaluation=None).exported
    return exported


def restored(directory: Path, build: Any, images: np.ndarray) -> tuple[np.ndarray, int]:
    """What tf_slim's own graph makes of images with the newest checkpoint of a directory, and the global step."""
    with reference.tf1_graph():
        placeholder = tf.compat.v1.placeholder(tf.float32, images.shape)
        logits = build(placeholder)
        step = tf.compat.v1.train.get_or_create_global_step()
        with tf.compat.v1.Session() as session:
            tf.compat.v1.train.Saver().restore(session, tf.train.latest_checkpoint(str(directory)))
            return session.run([tf.reshape(logits, [len(images), -1]), step], {placeholder: images})


def assert_same(model: keras.Model, directory: Path, build: Any, size: int) -> None:
    images = np.random.default_rng(2).normal(0, 1, (2, size, size, 3)).astype(np.float32)
    theirs, step = restored(directory, build, images)
    ours = np.asarray(model(images, training=False))
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert step == 42


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    "family",
    [
        "resnet_v1",
        "resnet_v2",
        "inception_v3",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("inception_v1", "inception_v2")),
    ],
)
def test_tf_slim_restores_it_and_gives_the_same_logits(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, size = thin(family), SIZES.get(family, 64)
    model = made_run(tmp_path / "run", spec, size)
    # A thin network is no row of the catalogue: tell which one it is.
    monkeypatch.setattr(module, "fits", lambda opened: [fit_of(opened.path, spec)])
    exported = exported_slim(tmp_path / "run", tmp_path / "out" / "model.ckpt")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in exported.files)
    assert (tmp_path / "out" / "labels.txt").read_text(encoding="utf-8") == "0:daisy\n1:rose: red\n2:Löwenzahn\n"

    # Saver() restores every variable of the graph: slim's default one of v3 has the auxiliary head.
    default = {"create_aux_logits": True} if family == "inception_v3" else {}

    def build(images: tf.Tensor) -> tf.Tensor:
        return reference.slim_logits(family, images, len(NAMES), **spec.arguments, **default)

    assert_same(model, tmp_path / "out", build, size)
    assert ("auxiliary head for slim's default graph: freshly initialised" in exported.summary()) == bool(default)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("resnet_v1_50", 64), ("resnet_v2_101", 64), ("vgg_16", 224)])
def test_tf_slims_own_functions_restore_full_networks(name: str, size: int, tmp_path: Path) -> None:
    model = made_run(tmp_path / "run", find_row(f"slim/{name}"), size)
    exported_slim(tmp_path / "run", tmp_path / "out" / "model.ckpt")

    def build(images: tf.Tensor) -> tf.Tensor:
        slim = importlib.import_module("tf_slim")
        family = name.rpartition("_")[0]
        nets = importlib.import_module(f"tf_slim.nets.{family}")
        with slim.arg_scope(getattr(nets, f"{family.partition('_')[0]}_arg_scope")()):
            return getattr(nets, name)(images, num_classes=len(NAMES), is_training=False)[0]

    assert_same(model, tmp_path / "out", build, size)


@pytest.fixture
def trained(finished: tuple[Path, Printed]) -> Path:
    """On images in memory, at another size than their own."""
    return finished[0]


@pytest.mark.slow
def test_a_run_goes_out_as_it_was_trained(trained: Path, tmp_path: Path) -> None:
    exported = exported_slim(trained, tmp_path / "model.ckpt")
    result = json.loads((trained / "result.json").read_text())
    model = keras.models.load_model(trained / "model.keras")
    images = np.random.default_rng(0).uniform(-1, 1, (2, *model.input_shape[1:])).astype(np.float32)
    arguments = find_row("resnet_v1_demo").arguments

    def build(placeholder: tf.Tensor) -> tf.Tensor:
        return reference.slim_logits("resnet_v1", placeholder, len(result["class_names"]), **arguments)

    theirs, step = restored(tmp_path, build, images)
    assert step == result["steps"]
    assert np.abs(np.asarray(model(images, training=False)) - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert "preprocessing 'inception'" in exported.summary()


@pytest.mark.parametrize("name", ["model.ckpt.index", "checkpoint", "labels.txt"])
def test_nothing_is_overwritten(trained: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(WrongUse, match=f"{name} is already there and is not overwritten"):
        exported_slim(trained, tmp_path / "model.ckpt")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.slow
def test_a_failed_export_leaves_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "model.ckpt")

    monkeypatch.setattr(module, "write_slim", full)
    with pytest.raises(OSError, match="No space"):
        exported_slim(trained, tmp_path / "model.ckpt")
    assert not list(tmp_path.iterdir())


def edited(source: Path, folder: Path, **values: object) -> Path:
    """A run like `source`, whose config says something else."""
    folder.mkdir()
    for name in ("model.keras", "result.json"):
        (folder / name).symlink_to(source / name)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    return folder


@pytest.mark.slow
def test_another_epsilon_is_said(trained: Path, tmp_path: Path) -> None:
    exported = exported_slim(edited(trained, tmp_path / "run", bn_epsilon=1e-3), tmp_path / "out" / "m")
    assert "note: trained with BatchNorm epsilon 0.001, slim's own is 1e-05" in exported.summary()


@pytest.mark.slow
def test_what_has_no_slim_form_is_refused_with_the_reason(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match=r"hidden layer of 8.*train without --hidden"):
        exported_slim(edited(trained, tmp_path / "hidden", hidden=8), tmp_path / "out" / "m")
    keras_run = tmp_path / "keras"
    made_run(keras_run, thin("mobilenet_v1"), 32)
    network = networks.build(
        "keras_applications", image_size=32, outputs=None, arguments={"application": "MobileNet", "alpha": 0.25}
    )
    attach_head(network.model, len(NAMES)).save(keras_run / "model.keras")
    with pytest.raises(FinetuneError, match="only a run on a slim backbone"):
        exported_slim(keras_run, tmp_path / "out" / "m")
    hub = edited(trained, tmp_path / "hub", backbone="hub:https://example.org/module/1")
    with pytest.raises(FinetuneError, match="is a Hub module: it has no slim names"):
        exported_slim(hub, tmp_path / "out" / "m")
    assert not (tmp_path / "out").exists()
