"""Networks without published weights: found, trained from random weights without a word, loaded from one's own file."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image

from checkpoints import store
from checkpoints.catalog.lookup import find_row
from checkpoints.catalog.rows import SCRATCH
from checkpoints.errors import CheckpointError
from finetune.backbone import load_backbone
from finetune.batchnorm.surgery import bn_layers
from finetune.config import RunConfig, from_mapping
from finetune.data.preprocessing import PREPROCESSINGS
from finetune.inference.export.write import export
from finetune.runs.directory import read_config_file
from finetune.runs.request import default_image_size
from finetune.training.display import Display
from finetune.training.prepare import prepare
from tests.support.commands import typed

TINY = "--data demo-target --examples 100 --epochs 1 --image-size 8 --batch-size 20 --learning-rate 0.003 --quiet"


def result_of(run):
    return json.loads((run / "result.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with both switches, which nobody may change."""
    run = tmp_path_factory.mktemp("scratch") / "run"
    done = typed(f"run --backbone cifar_resnet {TINY} --bn-renorm --bn-zero-debias --bn-decay 0.9 --run-dir {run}")
    assert done.exit_code == 0, done.output
    return run, done


def test_rows_are_found_and_nothing_is_cached():
    for spec in SCRATCH:
        assert find_row(spec.name) is find_row(spec.id) is spec
        assert spec.unpublished
        assert spec.preprocessing in PREPROCESSINGS
        assert store.is_cached(spec) is None
        with pytest.raises(CheckpointError, match=f"no weights are published for {spec.id}: 'finetune run --backbone"):
            store.locate(spec, with_head=False)
    assert not find_row("resnet_v1_200").unpublished


def test_images_keep_their_size():
    spec = find_row("cifar_vgg")
    assert [default_image_size(spec, size) for size in (8, 32, 64)] == [16, 32, 64]


@pytest.mark.slow
def test_trained_from_random_weights_without_asking(finished):
    run, printed = finished
    config, result = json.loads((run / "config.json").read_text()), result_of(run)
    assert config["backbone"] == "scratch/cifar_resnet"
    assert (config["from_scratch"], config["checkpoint"]) == (True, None)
    assert (config["preprocess"], config["bn_renorm"], config["bn_zero_debias"]) == ("inception", True, True)
    assert not (run / "load.json").exists()
    assert result["proof"]["holds"]
    assert result["proof"]["unmoved"] == []
    # 100 images, 5 held out, batches of 20: 4 steps.
    bn = result["bn"]
    assert (bn["layers"], bn["updates"], bn["renorm"], bn["zero_debias"]) == (15, 4, True, True)
    assert bn["residual"] == pytest.approx(0.9**4)
    assert bn["residual_mean"] == 0
    assert "4 updates: 0.66 of the starting statistics left (none in the means)" in printed.stdout


@pytest.mark.slow
def test_the_model_is_stock_and_diagnosed_as_any_other(finished):
    run, _ = finished
    model = keras.models.load_model(run / "model.keras")
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    assert not any("local_step" in variable.path for variable in model.variables)
    diagnosed = typed(f"diagnose-bn {run} --json")
    assert diagnosed.exit_code in (0, 3, 4), diagnosed.output
    assert (
        json.loads(diagnosed.stdout)["accuracy"]["test"]["is_training_false"]
        == (result_of(run)["test"]["is_training_false"]["accuracy"])
    )


@pytest.fixture(scope="module")
def planned():
    """The config of such a run."""
    shown = typed(f"run --backbone cifar_resnet {TINY} --bn-renorm --bn-zero-debias --dry-run --json")
    return json.loads(shown.stdout)["config"]


def test_repeated_without_a_switch(planned, tmp_path):
    where = tmp_path / "config.json"
    where.write_text(json.dumps(planned))
    config = from_mapping(read_config_file(where), where=str(where), options={"bn_renorm": False})
    assert (config.from_scratch, config.bn_renorm, config.bn_zero_debias) == (True, False, True)
    assert "--no-bn-renorm" in typed("run --help").stdout


@pytest.mark.slow
def test_a_checkpoint_of_ones_own(finished, tmp_path):
    spec = find_row("cifar_resnet")
    model = keras.models.load_model(finished[0] / "model.keras")
    (exported,) = export(finished[0], tmp_path / "own.ckpt", forms=["slim"]).exported
    assert "77 variables of scratch/cifar_resnet with 10 outputs" in exported.summary()
    loaded = load_backbone(spec, image_size=8, checkpoint=tmp_path / "own.ckpt")
    assert loaded.report is not None
    assert set(loaded.report.ignored) == {"old head", "training counters"}
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    features = keras.Model(model.input, model.get_layer("head.logits").input)
    np.testing.assert_allclose(loaded.model(images), features(images), rtol=1e-4, atol=1e-5)

    own = RunConfig(
        "cifar_resnet", data="demo-target", checkpoint=str(tmp_path / "own.ckpt"), examples=100, image_size=8
    )
    ready = prepare(own, Display(), load_weights=True)
    assert not ready.config.from_scratch
    assert ready.backbone.report is not None
    assert len(ready.backbone.report.assigned) == 15 * 5

    verified = typed(f"backbones verify cifar_resnet --checkpoint {tmp_path / 'own.ckpt'} --json")
    assert verified.exit_code == 0, verified.output
    assert len(json.loads(verified.stdout)["load"]["assigned"]) == 15 * 5 + 2

    Image.new("RGB", (40, 40)).save(tmp_path / "207_dog.png")
    refused = typed(f"backbones verify cifar_resnet --checkpoint {tmp_path / 'own.ckpt'} --photos {tmp_path}")
    assert refused.exit_code == 2, refused.output
    assert "leave out --photos" in refused.stderr

    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_backbone(find_row("cifar_resnet18"), image_size=8, checkpoint=tmp_path / "own.ckpt")


@pytest.mark.slow
def test_switches_reach_the_layers_of_a_pretrained_network_too():
    config = RunConfig("resnet_v1_demo", data="demo-target", examples=100, epochs=10, batch_size=20, image_size=8)
    config = replace(config, bn_renorm=True, bn_zero_debias=True, freeze_until="block1")
    ready = prepare(config, Display(), load_weights=True)
    layers = bn_layers(ready.model)
    # 100 images, 5 held out: 4 steps an epoch.
    assert {(one.renormalise, one.zero_debias, one.run_steps) for one in layers} == {(True, True, 40)}
    assert {one.statistics for one in layers} == {"moving", "batch"}
    assert all(np.any(np.array(one.moving_mean) != 0) for one in layers), "the bundled weights are not loaded"


@pytest.mark.parametrize(
    ("line", "message", "code"),
    [
        ("run --backbone cifar_resnet --image-size 3", "expected at least 4 px (made for 32); give --image-size 4", 2),
        (
            "run --backbone cifar_resnet --head keep",
            "--head keep: no weights are published for scratch/cifar_resnet",
            2,
        ),
        ("backbones verify cifar_vgg", "no weights are published for scratch/cifar_vgg", 1),
        ("run --backbone cifar_resnt", "did you mean cifar_resnet?", 2),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(line, message, code):
    refused = typed(line)
    assert refused.exit_code == code, refused.output
    assert message in refused.stderr
    assert refused.stderr.startswith("Error: ")


def test_a_config_with_a_switch_of_another_type_is_refused(planned, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**planned, "bn_renorm": "yes"}))
    refused = typed(f"run --config {tmp_path / 'config.json'}")
    assert refused.exit_code == 2
    assert "--bn-renorm 'yes'" in refused.stderr
