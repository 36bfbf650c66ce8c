"""The networks of KerasHub's presets, against KerasHub itself and against what it computed when the numbers were kept.

`python -m tests.networks.test_kerashub` writes golden/kerashub.json anew, with keras_hub.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from finetune.backbone import networks
from finetune.backbone.kerashub.families import OWN_LAYERS, Arguments, plan, stages
from finetune.backbone.networks.network import Network, layers_by_stage
from tests.support.kerashub_presets import CASES, set_weights

_PLAIN, _VD = ([64], [7]), ([32, 32, 64], [3, 3, 3])


def full_resnet(block_type: str, blocks: list[int], stem: tuple[list[int], list[int]], *, pre: bool = False) -> dict:
    return {
        **dict(zip(("input_conv_filters", "input_conv_kernel_sizes"), stem, strict=True)),
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": blocks,
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": block_type,
        "use_pre_activation": pre,
    }


PUBLISHED: dict[str, tuple[str, dict[str, Any], int]] = {
    "resnet_18_imagenet": ("ResNetBackbone", full_resnet("basic_block", [2, 2, 2, 2], _PLAIN), 11186112),
    "resnet_50_imagenet": ("ResNetBackbone", full_resnet("bottleneck_block", [3, 4, 6, 3], _PLAIN), 23561152),
    # For these, KerasHub also counts the logits of the published classifier.
    "resnet_vd_18_imagenet": ("ResNetBackbone", full_resnet("basic_block_vd", [2, 2, 2, 2], _VD), 11722824 - 513000),
    "resnet_vd_50_imagenet": (
        *("ResNetBackbone", full_resnet("bottleneck_block_vd", [3, 4, 6, 3], _VD)),
        25629512 - 2049000,
    ),
    "densenet_121_imagenet": ("DenseNetBackbone", {"stackwise_num_repeats": [6, 12, 24, 16]}, 7037504),
    "vgg_16_imagenet": (
        *("VGGBackbone", {"stackwise_num_repeats": [2, 2, 3, 3, 3], "stackwise_num_filters": [64, 128, 256, 512, 512]}),
        14714688,
    ),
}
"""Preset -> (class, arguments, parameters as keras_hub/src/models/*/*_presets.py of KerasHub 0.32 count them)."""
GOLDEN = Path(__file__).parent / "golden" / "kerashub.json"
SIZE = (61, 50)
"""Odd and even, so that paddings differ."""


def build(case: str) -> Network:
    kind, arguments = CASES[case]
    planned = plan(kind, Arguments(arguments, case))
    return networks.build(planned.family, image_size=SIZE, outputs=None, arguments=planned.arguments)


def images() -> np.ndarray:
    return np.random.default_rng(1).uniform(-2, 2, (4, *SIZE, 3)).astype(np.float32)


def computed(model: keras.Model) -> dict[str, Any]:
    """What a network with `set_weights` computes in both modes, and what of it depends on the order of its layers."""
    set_weights(model)
    layers = [layer.name for layer in model.layers if layer.weights]
    features = {"inference": False, "batch": True}
    given = images()
    result = {name: np.asarray(model(given, training=training)) for name, training in features.items()}
    pooled = {name: value.mean((1, 2)) if value.ndim == 4 else value for name, value in result.items()}
    return {"layers": layers, **{name: value[:, :8].round(5).tolist() for name, value in pooled.items()}}


@pytest.mark.parametrize("case", CASES)
def test_computes_what_kerashub_computed(case: str) -> None:
    golden, ours = json.loads(GOLDEN.read_text())[case], computed(build(case).model)
    assert ours["layers"] == golden["layers"]
    for mode in ("inference", "batch"):
        np.testing.assert_allclose(ours[mode], golden[mode], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_equals_kerashub(case: str) -> None:
    kerashub = pytest.importorskip("keras_hub", reason="the extra 'kerashub' is not installed")
    kind, arguments = CASES[case]
    theirs = getattr(kerashub.models, kind)(**arguments)
    ours = build(case).model
    set_weights(theirs)
    ours.set_weights(theirs.get_weights())
    for training in (False, True):
        expected = np.asarray(theirs(images(), training=training)).mean((1, 2))
        np.testing.assert_allclose(ours(images(), training=training), expected, rtol=1e-4, atol=1e-5)
    for mine, other in zip(ours.weights, theirs.weights, strict=True):  # moving statistics were updated
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PUBLISHED)
def test_networks_of_published_presets_have_their_parameters(preset: str) -> None:
    kind, arguments, parameters = PUBLISHED[preset]
    planned = plan(kind, Arguments(arguments, preset))
    model = networks.build(planned.family, image_size=(None, None), outputs=None, arguments=planned.arguments).model
    assert model.count_params() == parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("ResNetBackbone", full_resnet("bottleneck_block", [3, 4, 6, 3], _PLAIN, pre=True)),
        ("ResNetBackbone", full_resnet("bottleneck_block_vd", [3, 4, 6, 3], _VD)),
        ("DenseNetBackbone", {"stackwise_num_repeats": [6, 12, 24, 16]}),
    ],
    ids=["resnet_v2_50", "resnet_vd_50", "densenet_121"],
)
def test_full_networks_equal_those_of_kerashub(kind: str, arguments: dict[str, Any]) -> None:
    kerashub = pytest.importorskip("keras_hub", reason="the extra 'kerashub' is not installed")
    theirs = getattr(kerashub.models, kind)(**arguments)
    planned = plan(kind, Arguments(arguments, kind))
    ours = networks.build(planned.family, image_size=(96, 96), outputs=None, arguments=planned.arguments).model
    set_weights(theirs)
    ours.set_weights(theirs.get_weights())
    given = np.random.default_rng(1).uniform(-2, 2, (4, 96, 96, 3)).astype(np.float32)
    for training in (False, True):
        expected = np.asarray(theirs(given, training=training)).mean((1, 2))
        difference = np.abs(np.asarray(ours(given, training=training)) - expected).max()
        assert difference < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kind", OWN_LAYERS)
def test_refused_classes_have_the_layer_that_is_named(kind: str) -> None:
    kerashub = pytest.importorskip("keras_hub", reason="the extra 'kerashub' is not installed")
    folder = Path(inspect.getfile(getattr(kerashub.models, kind))).parent
    layer = f"class {OWN_LAYERS[kind]}("
    assert any(layer in path.read_text() for path in folder.glob("*.py"))


@pytest.mark.parametrize("case", CASES)
def test_stages_are_found_again_by_the_names_of_layers(case: str) -> None:
    network = build(case)
    if case == "vgg":  # its names are those of keras.applications, which is asked before
        assert list(layers_by_stage(network)) == [f"block{number}" for number in range(1, 6)]
        return
    found = stages(layer.name for layer in network.model.layers)
    again = layers_by_stage(Network(network.model, "", found))
    assert again == layers_by_stage(network)
    assert next(iter(again)) == ("block1" if case == "xception" else "conv1")


def test_logits() -> None:
    planned = plan(CASES["densenet"][0], Arguments(CASES["densenet"][1], "here"))
    model = networks.build(planned.family, image_size=32, outputs=5, arguments=planned.arguments).model
    assert model.output_shape == (None, 5)


def main() -> None:
    import keras_hub

    golden = {}
    for case, (kind, arguments) in CASES.items():
        golden[case] = computed(getattr(keras_hub.models, kind)(**arguments))
    GOLDEN.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
