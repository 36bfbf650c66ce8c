import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from checkpoints.errors import CheckpointError
from finetune._version import install_line
from finetune.backbone import find_backbone, load_backbone, open_model, published_preprocessing
from finetune.backbone.kerashub.preset_folder import is_preset, locate, preprocessing, read, rebuilt
from finetune.data.preprocessing import find_preprocessing, known_name
from finetune.errors import FinetuneError, WrongUse
from tests.networks.test_kerashub import build
from tests.support.kerashub_presets import CASES, TORCH, serialized, set_weights, write_preset


@pytest.fixture(scope="module")
def model():
    made = build("densenet").model
    set_weights(made)
    return made


@pytest.fixture
def preset(tmp_path, model):
    return write_preset(tmp_path / "preset", "densenet", model, converter=TORCH)


def changed(folder: Path, **changes: object) -> Path:
    """The preset with other arguments; None leaves one out."""
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        config["config"][name] = value
        if value is None:
            del config["config"][name]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_is_recognised_and_read_without_a_prefix(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("preset", "./preset", "kerashub:preset", f"kerashub:{preset}", str(preset)):
        spec = find_backbone(name)
        assert (spec.id, spec.label) == (f"kerashub:{preset}", "kerashub-preset")
    assert find_backbone(spec.id) == spec
    assert (spec.image_size, spec.image_shape, spec.own_size, spec.outputs) == (48, None, False, 0)
    assert known_name(spec.preprocessing) == "torch"
    assert known_name(published_preprocessing(spec.id)) == "torch"
    assert published_preprocessing("kerashub:resnet_50_imagenet") is None


def test_the_weights_are_those_of_the_file_and_the_model_needs_nobody(preset, model, tmp_path):
    opened = open_model(preset)
    for mine, theirs in zip(opened.weights, model.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    opened.save(tmp_path / "plain.keras")
    config = json.loads(opened.to_json())
    assert {layer["module"] for layer in config["config"]["layers"]} == {"keras.layers"}
    assert keras.models.load_model(tmp_path / "plain.keras").output_shape == opened.output_shape


def test_a_backbone_has_the_stages_and_reports_the_files(preset):
    backbone = load_backbone(find_backbone(str(preset)), image_size=32)
    assert list(backbone.stages) == ["conv1", "stack1", "stack2"]
    assert backbone.report is not None
    assert backbone.report.kind == "kerashub"
    assert len(backbone.report.assigned) == len(backbone.model.weights)
    with pytest.raises(WrongUse, match=r"--head keep: kerashub:.* ends in features"):
        load_backbone(find_backbone(str(preset)), image_size=32, head=5)


def test_the_configs_beside_a_preset_are_not_its_own(preset, tmp_path):
    (tmp_path / "config.json").write_text('{"backbone": "resnet_v1_50", "preprocess": "vgg"}')
    assert list(load_backbone(find_backbone(str(preset)), image_size=32).stages)[1] == "stack1"
    assert known_name(find_backbone(str(preset)).preprocessing) == "torch"


def test_weights_of_another_file(preset, tmp_path):
    other = build("densenet").model
    other.save_weights(tmp_path / "tuned.weights.h5")
    spec = find_backbone(str(preset))
    backbone = load_backbone(spec, image_size=32, checkpoint=tmp_path / "tuned.weights.h5")
    loaded = backbone.model.get_layer("conv1_conv").weights[0]
    np.testing.assert_array_equal(loaded, other.get_layer("conv1_conv").weights[0])


def test_the_size_that_the_network_is_made_for(tmp_path, model):
    folder = write_preset(tmp_path / "fixed", "densenet", model, image_shape=[64, 48, 3])
    spec = find_backbone(str(folder))
    assert (spec.own_size, spec.image_size, spec.image_shape, spec.preprocessing) == (True, 64, (64, 48, 3), "")


CONVERTERS = {
    "inception": {"scale": 1 / 127.5, "offset": -1},
    "unit": {"scale": 1 / 255},
    "raw": {"scale": None, "offset": None},
    "torch": TORCH,
    # As the first presets have it.
    "torch ": {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "variance": [0.229**2, 0.224**2, 0.225**2]},
    "vgg": {"scale": 1, "offset": [-123.68, -116.779, -103.939]},
}


@pytest.mark.parametrize(("name", "converter"), CONVERTERS.items())
def test_converters_that_are_known_preprocessings(name, converter):
    assert known_name(preprocessing(converter, 3)) == name.strip()


def test_converters_of_other_numbers_and_such_as_say_nothing():
    said = preprocessing({"scale": [0.5, 0.25, 0.125], "offset": [1, 2, -3]}, 3)
    pixels = np.full((1, 2, 2, 3), 100, np.float32)
    np.testing.assert_allclose(find_preprocessing(said).apply(pixels)[0, 0, 0], [51, 27, 9.5], rtol=1e-6)
    assert known_name(said) == said
    for scale in (0, -1, [1, 2], "1", float("nan"), {}):
        assert preprocessing({"scale": scale}, 3) == ""
    assert preprocessing({"scale": 2, "offset": 1}, 1) == "scale=2,mean=-1"


def test_a_converter_inside_a_preprocessor(preset):
    (preset / "image_converter.json").unlink()
    inner = serialized("DenseNetImageConverter", {"scale": 1 / 255, "height": 40, "width": 40})
    outer = serialized("DenseNetImageClassifierPreprocessor", {"image_converter": inner})
    (preset / "preprocessor.json").write_text(json.dumps(outer))
    found = read(preset)
    assert (found.image_size, known_name(found.preprocessing)) == ((40, 40), "unit")
    (preset / "preprocessor.json").write_text('{"config": null}')
    assert (read(preset).image_size, read(preset).preprocessing) == (None, "")


DAMAGE = {
    "no variable has a side of 10007": {"growth_rate": 10007},
    r"it has \d+ kernels": {"stackwise_num_repeats": [900, 900]},
    "does not fit the network": {"stackwise_num_repeats": [2, 1]},
    "has no stackwise_num_repeats: it is damaged": {"stackwise_num_repeats": None},
    "a list of 1 to 1000 whole numbers from 1 to 1000": {"stackwise_num_repeats": [10**9]},
    "growth_rate True: expected a whole number": {"growth_rate": True},
    "compression_ratio 2: expected a number above 0": {"compression_ratio": 2},
    "the argument 'include_rescaling', which is not known": {"include_rescaling": True},
    "data_format channels_first: expected": {"data_format": "channels_first"},
    r"image_shape \[None, None, 7\]": {"image_shape": [None, None, 7]},
    "makes no network": {"image_shape": [2, 2, 3]},
}


@pytest.mark.parametrize(("said", "changes"), DAMAGE.items())
def test_configs_that_are_not_of_the_weights(preset, said, changes):
    with pytest.raises((FinetuneError, CheckpointError), match=said):
        rebuilt(changed(preset, **changes))


def refused(folder: Path, kind: str, arguments: dict) -> str:
    (folder / "config.json").write_text(json.dumps(serialized(kind, arguments)))
    with pytest.raises(FinetuneError) as raised:
        find_backbone(str(folder))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_other_classes_are_refused_with_the_layer_that_is_their_own(preset):
    said = refused(preset, "EfficientNetBackbone", {})
    assert "EfficientNetBackbone is made of the layer MBConvBlock of KerasHub's own" in said
    assert "expected a preset of ResNetBackbone, DenseNetBackbone, XceptionBackbone, VGGBackbone" in said
    assert "did you mean ResNetBackbone? ResNeXtBackbone is not" in refused(preset, "ResNeXtBackbone", {})


@pytest.mark.parametrize(
    ("case", "said", "changes"),
    [
        ("resnet_basic", "block_type round: expected one of", {"block_type": "round"}),
        ("resnet_vd_basic", "use_pre_activation True: expected", {"use_pre_activation": True}),
        ("resnet_basic", "64 first, with stride 1", {"stackwise_num_strides": [2, 2]}),
        ("resnet_basic", "lists of one length expected, but they have", {"stackwise_num_strides": [1]}),
        ("xception", "block 2 has 16 channels behind 12 and does not pool", {"stackwise_pooling": [False] * 5}),
        ("xception", "a list of true and false", {"stackwise_pooling": 1}),
        ("xception", "at least two blocks", {"stackwise_conv_filters": [[8]], "stackwise_pooling": [False]}),
        ("xception", "a list of 1 to 1000 lists", {"stackwise_conv_filters": 8}),
    ],
)
def test_arguments_that_make_no_network(preset, case, said, changes):
    kind, arguments = CASES[case]
    assert said in refused(preset, kind, {**arguments, **changes})


def test_files_that_are_missing(preset):
    (preset / "model.weights.h5").rename(preset / "model.weights.json")
    with pytest.raises(CheckpointError, match="split over several files"):
        find_backbone(str(preset))
    (preset / "model.weights.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no model.weights.h5: expected all files"):
        find_backbone(str(preset))
    (preset / "config.json").write_text('{"backbone": "resnet_v1_50"}')
    assert not is_preset(preset)
    with pytest.raises(FinetuneError, match="is no KerasHub preset"):
        find_backbone(f"kerashub:{preset}")
    for name in ("./nowhere", ""):
        with pytest.raises(FinetuneError, match="there is no folder"):
            locate(name)


def test_without_keras_hub_a_name_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(WrongUse) as raised:
        find_backbone("kerashub:resnet_50_imagenet")
    assert install_line("kerashub") in str(raised.value)
    assert "\n" not in str(raised.value)
