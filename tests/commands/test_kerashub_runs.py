"""KerasHub presets in whole runs: by folder and by name, frozen by stage, diagnosed, in a jobs file, resumed."""

import json
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest

import finetune
from finetune import backbone
from finetune.data.preprocessing import find_preprocessing
from finetune.errors import FinetuneError, WrongUse
from tests.networks.test_kerashub import build
from tests.support.commands import stop_at, typed
from tests.support.kerashub_presets import CASES, TORCH, set_weights, write_preset

SMALL = "--data demo-target --examples 100 --epochs 2 --image-size 32 --batch-size 20 --quiet"


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A folder with every preset."""
    folder = tmp_path_factory.mktemp("presets")
    for case in CASES:
        model = build(case).model
        set_weights(model)
        write_preset(folder / case, case, model, converter=TORCH)
    return folder


@pytest.fixture
def keras_hub(presets, monkeypatch):
    """A stand-in for keras_hub, whose cache has one preset: what is called, and how its errors look."""

    def get_file(preset: str, path: str) -> str:
        if preset != "densenet":
            raise ValueError("403 Client Error: no network\nmore lines")
        if not (presets / preset / path).is_file():
            raise FileNotFoundError(path)
        asked.append(path)
        return str(presets / preset / path)

    asked: list[str] = []
    kind = type("Backbone", (), {"presets": {"densenet": {}, "resnet_50_imagenet": {}}})
    models = types.SimpleNamespace(
        Backbone=kind, **dict.fromkeys(("ResNetBackbone", "DenseNetBackbone", "XceptionBackbone", "VGGBackbone"), kind)
    )
    utils = types.ModuleType("keras_hub.src.utils.preset_utils")
    utils.get_file = get_file
    hub = types.ModuleType("keras_hub")
    hub.models = models
    for name in ("keras_hub.src", "keras_hub.src.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "keras_hub", hub)
    monkeypatch.setitem(sys.modules, "keras_hub.src.utils.preset_utils", utils)
    return asked


def assert_stock(path: Path) -> None:
    model = keras.models.load_model(path, compile=False)
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)


def test_frozen_stages_stay_and_the_run_is_diagnosed(presets, tmp_path):
    preset = presets / "densenet"
    line = (
        f"run --backbone {preset} {SMALL} --freeze-until stack1 --bn 'stack2_*=freeze' --run-dir {tmp_path}/run --json"
    )
    result = typed(line)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["proof"]["holds"]
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["backbone"], config["preprocess"]) == (f"kerashub:{preset}", "torch")
    stages = json.loads((tmp_path / "run/freeze.json").read_text())["stages"]
    assert [row["stage"] for row in stages] == ["conv1", "stack1", "stack2", "head"]
    assert_stock(tmp_path / "run/model.keras")
    diagnosis = typed(f"diagnose-bn {tmp_path}/run --json --quiet --images 60")
    assert diagnosis.exit_code in (0, 3, 4), diagnosis.output
    assert len(json.loads(diagnosis.stdout)["layers"]) == 9
    for command in (f"diagnose-bn {preset}", f"predict {preset} {tmp_path}"):
        assert "is a KerasHub preset, a backbone without a head" in typed(command).output
    written = typed(f"features {preset} --layer stack1 --data demo-target --image-size 32 --out {tmp_path}/some.npz")
    assert written.exit_code == 0, written.output


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_family_trains_by_its_stages(presets, tmp_path, case):
    last = "block1" if case in ("vgg", "xception") else "conv1"
    line = f"run --backbone kerashub:{presets / case} {SMALL} --freeze-until {last} --run-dir {tmp_path}/run --json"
    result = typed(line)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["proof"]["holds"]
    again = backbone.load_backbone(backbone.find_backbone(f"{tmp_path}/run"), image_size=32)
    assert next(iter(again.stages)) == last


@pytest.mark.slow
def test_a_run_is_resumed(presets, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert typed(f"run --backbone {presets}/resnet_basic {SMALL} --run-dir {tmp_path}/run").exit_code == 130
    result = typed(f"run --resume {tmp_path}/run --quiet")
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.slow
def test_a_jobs_file_beside_the_presets(presets, tmp_path):
    jobs = presets / "jobs.toml"
    settings = 'data = "demo-target"\nexamples = 100\nepochs = 1\nimage_size = 32\nfreeze = ["*"]'
    jobs.write_text(f'[defaults]\n{settings}\n[matrix]\nbackbone = ["kerashub:densenet", "./vgg"]\n')
    result = typed(f"batch {jobs} --runs-dir {tmp_path}/batch --quiet")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "batch").rglob("result.json"))) == 2


@pytest.mark.parametrize("case", ["resnet_v2_bottleneck", pytest.param("xception", marks=pytest.mark.slow)])
def test_transfer_gives_a_model_that_saves_and_trains_by_itself(presets, tmp_path, case):
    freeze = "stack0_*" if case.startswith("resnet") else "block1_*"
    model = finetune.transfer(f"{presets}/{case}", 3, image_size=32, freeze=freeze)
    model.save(tmp_path / "model.keras")
    assert_stock(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    again.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
    again.fit(images, np.arange(8) % 3, verbose=0)
    assert any(not layer.trainable for layer in model.layers)


def test_a_preset_by_its_name_is_fetched_by_keras_hub(keras_hub, presets, tmp_path):
    found = backbone.find_backbone("kerashub:densenet")
    assert (found.id, found.label) == ("kerashub:densenet", "kerashub-densenet")
    assert keras_hub[:2] == ["config.json", "image_converter.json"]
    assert len(backbone.load_backbone(found, image_size=32).stages) == 3
    with pytest.raises(WrongUse, match=r"unknown preset 'kerashub:densnet': did you mean densenet\?") as raised:
        backbone.find_backbone("kerashub:densnet")
    assert "\n" not in str(raised.value)
    with pytest.raises(FinetuneError, match=r"could not be fetched by keras_hub \(403 Client Error: no network\)"):
        backbone.find_backbone("kerashub:resnet_50_imagenet")


def test_folders_that_keras_hub_itself_wrote(tmp_path):
    hub = pytest.importorskip("keras_hub", reason="the extra 'kerashub' is not installed")
    images = np.random.default_rng(0).uniform(0, 255, (2, 48, 48, 3)).astype(np.float32)
    kind, arguments = CASES["resnet_vd_bottleneck"]
    theirs = getattr(hub.models, kind)(**arguments)
    set_weights(theirs)
    converter = hub.layers.ResNetImageConverter(**TORCH)
    preprocessor = hub.models.ResNetImageClassifierPreprocessor(image_converter=converter)
    task = hub.models.ResNetImageClassifier(backbone=theirs, num_classes=3, preprocessor=preprocessor)
    theirs.save_to_preset(str(tmp_path / "backbone"))
    task.save_to_preset(str(tmp_path / "task"))
    expected = np.asarray(theirs(converter(images), training=False)).mean((1, 2))
    for folder in (tmp_path / "backbone", tmp_path / "task"):
        spec = backbone.find_backbone(str(folder))
        ours = backbone.load_backbone(spec, image_size=48).model
        given = np.asarray(converter(images))
        np.testing.assert_allclose(ours(given, training=False), expected, rtol=1e-4, atol=1e-4)
    assert backbone.find_backbone(str(tmp_path / "backbone")).preprocessing == ""
    pixels = find_preprocessing(spec.preprocessing).apply(images)
    np.testing.assert_allclose(pixels, given, atol=1e-5)
