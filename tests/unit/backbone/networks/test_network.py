"""Layers by stage, worked out by hand."""

import keras

from finetune.backbone import networks
from finetune.backbone.networks.network import Network, Stage, layers_by_stage


def unit(block: int, *, strided: bool) -> set[str]:
    """The layers of the one unit of a block; every block here has one, so each has a convolution as shortcut."""
    name = f"t.block{block}.unit_1.bottleneck_v1"
    convolutions = [f"{name}.{conv}" for conv in ("conv1", "conv2", "conv3", "shortcut")]
    return {
        *convolutions,
        *(f"{convolution}.BatchNorm" for convolution in convolutions),
        f"{name}.conv1.relu",
        f"{name}.conv2.relu",
        f"{name}.add",
        name,
        *([f"{name}.conv2.pad"] if strided else []),
    }


STEM = {"images", "t.conv1.pad", "t.conv1", "t.conv1.BatchNorm", "t.conv1.relu", "t.pool1"}
ARGUMENTS = {"scope": "t", "units": (1, 1), "width": 4}


def test_stages_of_a_small_resnet() -> None:
    stages = layers_by_stage(networks.build("resnet_v1", image_size=32, outputs=None, arguments=ARGUMENTS))
    assert list(stages) == ["conv1", "block1", "block2"]
    assert {name: set(layers) for name, layers in stages.items()} == {
        "conv1": STEM,
        "block1": unit(1, strided=True),
        "block2": unit(2, strided=False) | {"t.pool5"},
    }


def test_published_logits_are_the_head() -> None:
    stages = layers_by_stage(networks.build("resnet_v1", image_size=32, outputs=3, arguments=ARGUMENTS))
    assert list(stages) == ["conv1", "block1", "block2", "head"]
    assert stages["head"] == ["t.logits", "t.logits.squeeze"]
    assert set(stages["block2"]) == unit(2, strided=False) | {"t.pool5"}


def test_a_small_stem_ends_in_its_activation() -> None:
    arguments = {**ARGUMENTS, "stem": "small"}
    stages = layers_by_stage(networks.build("resnet_v1", image_size=32, outputs=None, arguments=arguments))
    assert stages["conv1"] == ["images", "t.conv1", "t.conv1.BatchNorm", "t.conv1.relu"]


def test_a_branch_past_a_stages_end_belongs_to_the_next() -> None:
    # images -> a -> b -> add -> c -> pool, and a -> side -> add: `side` is as deep as b, yet b does not need it.
    images = keras.Input((4, 4, 3), name="images")

    def dense(name: str, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.layers.Dense(3, name=name)(x)

    a = dense("a", images)
    added = keras.layers.Add(name="add")([dense("b", a), dense("side", a)])
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(dense("c", added))
    model = keras.Model(images, dense("logits", pooled))
    network = Network(model, "", (Stage("first", "b"), Stage("second", "add")))
    stages = layers_by_stage(network)
    assert {name: set(layers) for name, layers in stages.items()} == {
        "first": {"images", "a", "b"},
        "second": {"side", "add", "c", "pool"},
        "head": {"logits"},
    }


def test_mobilenet_stages_are_slims_end_points() -> None:
    network = networks.build("mobilenet_v1", image_size=32, outputs=5, arguments={"depth_multiplier": 0.25})
    stages = layers_by_stage(network)
    assert list(stages) == [*(f"Conv2d_{i}" for i in range(14)), "head"]
    assert stages["Conv2d_0"] == [
        "images",
        "MobilenetV1.Conv2d_0",
        "MobilenetV1.Conv2d_0.BatchNorm",
        "MobilenetV1.Conv2d_0.relu6",
    ]
    assert stages["Conv2d_13"][-1] == "MobilenetV1.Logits.AvgPool_1a"
    assert len(stages["Conv2d_13"]) == 7
    assert stages["head"][0] == "MobilenetV1.Logits.Conv2d_1c_1x1"
