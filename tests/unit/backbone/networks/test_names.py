"""Names of variables in checkpoints, and what `networks.build` takes."""

import keras
import pytest

from finetune.backbone import networks
from finetune.backbone.networks.names import display_name, keras_variables, slim_variables


@pytest.fixture
def model() -> keras.Model:
    images = keras.Input((8, 8, 3), name="images")
    x = keras.layers.DepthwiseConv2D(3, use_bias=False, name="net.depthwise")(images)
    x = keras.layers.BatchNormalization(name="net.depthwise.BatchNorm")(x)
    x = keras.layers.Dropout(0.5, name="net.drop")(x)
    return keras.Model(images, keras.layers.Conv2D(2, 1, name="net.Logits.Conv2d_1c_1x1")(x))


def test_slim_names(model: keras.Model) -> None:
    variables = slim_variables(model)
    assert list(variables) == [
        "net/depthwise/depthwise_weights",
        "net/depthwise/BatchNorm/gamma",
        "net/depthwise/BatchNorm/beta",
        "net/depthwise/BatchNorm/moving_mean",
        "net/depthwise/BatchNorm/moving_variance",
        "net/Logits/Conv2d_1c_1x1/weights",
        "net/Logits/Conv2d_1c_1x1/biases",
    ]
    assert variables["net/depthwise/BatchNorm/beta"] is model.get_layer("net.depthwise.BatchNorm").beta


def test_keras_names_follow_the_models_layers(model: keras.Model) -> None:
    names = list(keras_variables(model))
    assert names[:2] == ["net.depthwise/kernel", "net.depthwise.BatchNorm/gamma"]
    assert names[-2:] == ["net.Logits.Conv2d_1c_1x1/kernel", "net.Logits.Conv2d_1c_1x1/bias"]
    assert len(names) == 7, "the dropout's random state is no weight"


def test_the_user_reads_slashes() -> None:
    assert display_name("resnet_v1_50.block1.unit_1") == "resnet_v1_50/block1/unit_1"


def test_image_size_is_a_side_or_height_and_width() -> None:
    arguments = {"scope": "thin", "units": (1,), "width": 2}
    square = networks.build("resnet_v1", image_size=32, outputs=None, arguments=arguments).model
    wide = networks.build("resnet_v1", image_size=(32, 48), outputs=None, arguments=arguments).model
    assert square.input.shape == (None, 32, 32, 3)
    assert wide.input.shape == (None, 32, 48, 3)
    assert wide.output.shape == (None, 8)


def test_slim_families_are_made_of_stock_layers() -> None:
    for family, arguments in (("resnet_v1", {"scope": "thin", "units": (1,)}), ("mobilenet_v1", {})):
        network = networks.build(family, image_size=32, outputs=None, arguments=arguments)
        assert all(type(layer).__module__.startswith("keras.") for layer in network.model.layers)


def test_an_unknown_family_is_a_programming_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="resnet_v9"):
        networks.build("resnet_v9", image_size=32, outputs=None, arguments={})
