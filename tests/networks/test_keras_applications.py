"""Each application against its original: the same names in every build, the same outputs, stages that hold."""

import importlib
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest

from checkpoints.catalog.lookup import find_row
from finetune.backbone import load_backbone, networks
from finetune.backbone.networks.keras_applications import STAGES
from finetune.backbone.networks.network import HEAD, Network, layers_by_stage

QUICK = ("ResNet50", "MobileNet")
LARGE = {*(f"EfficientNetB{i}" for i in range(1, 8)), *(f"EfficientNetV2B{i}" for i in range(1, 4))}
LARGE |= {"EfficientNetV2M", "EfficientNetV2L", "NASNetLarge"}
LARGE |= {"VGG19", *(f"ConvNeXt{size}" for size in ("Small", "Base", "Large", "XLarge"))}
"""Built from the same code as a smaller one, and by test_catalog_builds.py."""
OUTPUTS = 7


def image_size(application: str) -> int:
    return 75 if application.startswith(("Inception", "Xception")) else 32


def build(application: str, outputs: int | None) -> Network:
    arguments = {"application": application}
    return networks.build(
        "keras_applications", image_size=image_size(application), outputs=outputs, arguments=arguments
    )


def names(network: Network) -> list[str]:
    return [layer.name for layer in network.model.layers]


def pools(network: Network, name: str) -> bool:
    return isinstance(network.model.get_layer(name), keras.layers.GlobalAveragePooling2D)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in STAGES if name not in LARGE
    ],
)
def application(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def network(application: str) -> Network:
    return build(application, OUTPUTS)


@pytest.mark.slow
def test_a_later_build_has_the_same_names(application: str, network: Network) -> None:
    without_head = build(application, None)
    head = layers_by_stage(network)[HEAD]
    # Some applications call the pooling otherwise where a head follows, and VGG's head flattens the map.
    ours, with_head = ([name for name in names(one) if not pools(one, name)] for one in (without_head, network))
    assert ours == [name for name in with_head if name not in head]
    assert sum(pools(without_head, name) for name in names(without_head)) >= 1
    assert without_head.model.output.shape == (None, network.model.get_layer(head[0]).input.shape[-1])
    assert not [name for name in names(network) if "/" in name]


@pytest.mark.slow
@pytest.mark.quick_cases(1)
def test_outputs_equal_the_original(application: str, network: Network) -> None:
    if application.startswith("EfficientNetB"):
        pytest.skip("Keras builds another network without the published weights: see below")
    side = image_size(application)
    original = getattr(keras.applications, application)(
        weights=None, classes=OUTPUTS, classifier_activation=None, input_shape=(side, side, 3)
    )
    rng = np.random.default_rng(0)
    for ours, theirs in zip(network.model.weights, original.weights, strict=True):
        if theirs.name == "moving_mean":
            theirs.assign(rng.normal(0, 0.1, theirs.shape))
        elif theirs.name == "moving_variance" or "layer_scale" in theirs.path:  # at 1e-6 a branch is nothing
            theirs.assign(rng.uniform(0.5, 1.5, theirs.shape))
        ours.assign(theirs)
    images = rng.uniform(-1, 1, (2, side, side, 3)).astype(np.float32)
    np.testing.assert_array_equal(network.model(images), original(images))


@pytest.mark.slow
def test_efficientnet_is_the_one_of_the_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras scales its pixels once more if it fetches the weights itself. Here it fetches a file made here."""
    image_shape = (224, 224, 3)
    made = keras.applications.EfficientNetB0(weights=None, input_shape=image_shape)
    rng = np.random.default_rng(0)
    for weight in made.weights:
        if weight.name in ("moving_mean", "mean"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
        elif weight.name in ("moving_variance", "variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    made.save_weights(tmp_path / "published.weights.h5")
    get_file = importlib.import_module("keras.src.applications.efficientnet").file_utils
    monkeypatch.setattr(get_file, "get_file", lambda *args, **kwargs: str(tmp_path / "published.weights.h5"))
    original = keras.applications.EfficientNetB0(classifier_activation=None, input_shape=image_shape)
    spec = find_row("efficientnet_b0")
    ours = load_backbone(spec, image_size=224, checkpoint=tmp_path / "published.weights.h5", head="published")
    images = rng.uniform(0, 255, (2, *image_shape)).astype(np.float32)
    expected = np.asarray(original(images))
    np.testing.assert_allclose(ours.model(images), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    # Random weights hardly tell pixels apart at their end: these are the pixels behind what is done to them.
    pixels = [
        np.asarray(keras.Model(one.input, one.get_layer("stem_conv_pad").output)(images))
        for one in (ours.model, original, made)
    ]
    np.testing.assert_allclose(pixels[0], pixels[1], rtol=1e-5, atol=1e-5)
    assert np.abs(pixels[0] - pixels[2]).max() > 1


def test_stages_are_nested_and_hold_every_layer(network: Network) -> None:
    stages = layers_by_stage(network)
    assert list(stages) == [*(stage.name for stage in network.stages), HEAD]
    assert sorted(name for layers in stages.values() for name in layers) == sorted(names(network))
    for earlier, later in pairwise(network.stages):
        assert earlier.end in stages[earlier.name]
        # The later stage must take its input from the earlier one's end: else a freeze would cut through it.
        part = keras.Model(network.model.input, network.model.get_layer(later.end).output)
        assert earlier.end in [layer.name for layer in part.layers]


def test_every_bn_layer_is_in_a_stage_of_the_backbone(application: str, network: Network) -> None:
    counts = {"ResNet50": 53, "ResNet50V2": 49, "DenseNet121": 121, "InceptionV3": 94, "InceptionResNetV2": 204}
    stages = layers_by_stage(network)
    is_bn = {layer.name: isinstance(layer, keras.layers.BatchNormalization) for layer in network.model.layers}
    found = sum(is_bn[name] for stage in network.stages for name in stages[stage.name])
    assert found == counts.get(application, sum(is_bn.values()))


def test_arguments_reach_the_application() -> None:
    arguments = {"application": "MobileNet", "alpha": 0.25}
    model = networks.build("keras_applications", image_size=(32, 64), outputs=None, arguments=arguments).model
    assert model.input.shape == (None, 32, 64, 3)
    assert model.output.shape == (None, 256)
