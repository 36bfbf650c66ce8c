"""Files of every version of Keras 2 are recognised and read; what names code is refused before it is looked up."""

import json

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from finetune.backbone import open_model
from finetune.backbone.keras_2.in_place import write_statistics
from finetune.backbone.keras_2.legacy_config import read_legacy
from finetune.errors import FinetuneError
from tests.support import keras_2_files as files


@pytest.fixture
def own():
    return files.model(files.conv)


def of_tensorflow_1(config):
    """Initializers with a type, and the class of BatchNorm by its version."""
    for number, layer in enumerate(files.each_layer(config)):
        for key, value in layer["config"].items():
            if key.endswith("_initializer"):
                value["config"]["dtype"] = "float32"
                del value["module"], value["registered_name"]
        if layer["class_name"] == "BatchNormalization":
            layer["class_name"] = f"BatchNormalizationV{1 + number % 2}"
            layer["config"]["axis"] = {"class_name": "ListWrapper", "config": [3]}["config"]
    config["class_name"] = "Model"


def of_keras_2_0(config):
    """Multi-backend Keras: no `groups`, `ragged` or type of a layer, one axis, initializers by their distribution."""
    of_tensorflow_1(config)
    uniform = {"class_name": "VarianceScaling"}
    uniform["config"] = {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform", "seed": None}
    for layer in files.each_layer(config):
        settings = layer["config"]
        for key in (
            "groups",
            "ragged",
            "optional",
            "keepdims",
            *(() if "batch_input_shape" in settings else ("dtype",)),
        ):
            settings.pop(key, None)
        if layer["class_name"].startswith("BatchNormalization"):
            layer["class_name"], settings["axis"] = "BatchNormalization", -1
        if "kernel_initializer" in settings:
            settings["kernel_initializer"] = uniform


def with_policies(config):
    """Mixed precision as TensorFlow 2.1 to 2.3 wrote it."""
    scale = {"class_name": "DynamicLossScale", "config": {"initial_loss_scale": 32768}}
    for layer in files.each_layer(config):
        if layer["class_name"] != "InputLayer":
            layer["config"]["dtype"] = {
                "class_name": "Policy",
                "config": {"name": "mixed_float16", "loss_scale": scale},
            }


def a_list_as_output(config):
    config["config"]["output_layers"] = [config["config"]["output_layers"]][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "version"),
    [(of_tensorflow_1, "2.2.4-tf"), (of_keras_2_0, "2.0.5"), (with_policies, "2.4.0"), (a_list_as_output, "2.15.0")],
)
def test_a_functional_file_of_each_age(change, version, own, tmp_path):
    path = files.edited(files.written(own, tmp_path / "own.h5"), change, version=version)
    assert read_legacy(path).writer == f"Keras {version}"
    made = open_model(path)
    np.testing.assert_allclose(made(files.images(), training=False), own(files.images(), training=False), atol=1e-6)


def test_a_sequential_file_of_keras_2_0_has_a_list_of_layers(tmp_path):
    own = files.moved(tf_keras.Sequential([layers.Conv2D(4, 3, input_shape=(16, 16, 3)), layers.BatchNormalization()]))

    def change(config):
        config["config"] = [one for one in config["config"]["layers"] if one["class_name"] != "InputLayer"]
        config["config"][0]["config"]["batch_input_shape"] = [None, 16, 16, 3]

    path = files.edited(files.written(own, tmp_path / "own.hdf5"), change, version="2.1.6")
    np.testing.assert_allclose(open_model(path)(files.images()), own(files.images()), rtol=1e-5, atol=1e-4)


def test_operations_of_tensorflow_2_0_between_layers(own, tmp_path):
    """TensorFlow 2.0 to 2.3 saved the node of the graph instead of the name of a function."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 16, 16, 3], name="x")
        tf.math.truediv(x, 127.5, name="truediv")
        sliced = x[..., ::-1]
    nodes = {one.name: one for one in graph.as_graph_def().node}
    slicing = nodes[sliced.op.name]
    slicing.input[0] = nodes["truediv"].input[0] = "x"

    def change(config):
        from google.protobuf import json_format

        config["class_name"] = "Model"
        nested = config["config"]["layers"]
        first, names = nested[0]["name"], ("truediv", "strided_slice")
        constants = ({1: 127.5}, {1: [0, 0], 2: [0, 0], 3: [1, -1]})
        for name, constant, node in zip(names, constants, (nodes["truediv"], slicing), strict=True):
            settings = {"name": name, "trainable": True, "dtype": "float32", "constants": constant}
            settings["node_def"] = json_format.MessageToDict(node)
            layer = {"class_name": "TensorFlowOpLayer", "name": f"tf_op_layer_{name}", "config": settings}
            nested.insert(1 if name == "truediv" else 2, {**layer, "inbound_nodes": [[[first, 0, 0, {}]]]})
            first = layer["name"]
        nested[3]["inbound_nodes"] = [[[first, 0, 0, {}]]]

    path = files.edited(files.written(own, tmp_path / "own.h5"), change, version="2.3.0-tf")
    images = files.images()
    expected = own(images[..., ::-1] / np.float32(127.5), training=False)
    np.testing.assert_allclose(open_model(path)(images, training=False), expected, atol=1e-6)


def relu6(x):
    return np.clip(x, 0, 6)


@pytest.mark.quick_cases(2)
@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("hard_swish", lambda x: x * relu6(x + 3) / 6),
        ("_hard_swish", lambda x: x * relu6(x + 3) / 6),
        ("Custom>h_swish", lambda x: x * relu6(x + 3) / 6),
        ("_relu6", relu6),
        ("swish", lambda x: x / (1 + np.exp(-x))),
        ("mish", lambda x: x * np.tanh(np.log1p(np.exp(x)))),
        ("leaky_relu", lambda x: np.maximum(x, 0.2 * x)),
        ({"class_name": "function", "config": "hard_swish", "registered_name": "Custom>hard_swish"},
         lambda x: x * relu6(x + 3) / 6),
    ],
)  # fmt: skip
def test_activations_of_published_networks_are_known_by_name(name, formula, tmp_path):
    """MobileNet's and EfficientNet's code hands them over as custom objects: `load_model(..., {"relu6": ...})`."""
    own = files.model(lambda x: layers.Activation("linear", name="last")(files.conv(x)), top=False)

    def change(config):
        files.each_layer(config)[-1]["config"]["activation"] = name

    path = files.edited(files.written(own, tmp_path / "own.h5"), change, version="2.1.4")
    expected = formula(own(files.images()).numpy().astype(np.float64))
    np.testing.assert_allclose(open_model(path)(files.images()), expected, rtol=1e-5, atol=1e-6)


def stranger(config):
    """What only training needs is of one's own; what old writers add; NumPy's numbers."""
    for layer in files.each_layer(config):
        settings = layer["config"]
        if layer["class_name"] == "Conv2D":
            # A class that is never made: EfficientConv2DKernelInitializer in files of people.
            settings["kernel_initializer"] = {"module": "os", "class_name": "system", "config": {"command": "false"}}
            settings["bias_initializer"] = "my_initializer"
            settings["kernel_constraint"] = {"class_name": "Clip", "config": {"most": 2}}
            settings["bias_regularizer"] = {"class_name": "Own>Decay", "config": {}}
            small = {"type": "ndarray", "value": 1e-4}
            settings["kernel_regularizer"] = {"class_name": "L1L2", "config": {"l1": 0.0, "l2": small}}
        if layer["class_name"] == "BatchNormalization":
            settings |= {"mode": 0, "freeze": True, "adjustment": None, "fused": True}
        if layer["class_name"] == "LeakyReLU":
            settings["alpha"] = {"type": "ndarray", "value": settings["alpha"]}
        if layer["class_name"] == "DepthwiseConv2D":
            settings |= {"filters": None, "groups": 1}
        if layer["class_name"] == "Dropout":
            layer["class_name"] = "FixedDropout"
        if layer["class_name"] != "InputLayer":
            settings["dtype"] = {"class_name": "Policy", "config": {"name": "infer"}}


def test_settings_of_other_writers_that_change_nothing_outside_of_training(tmp_path):
    def body(x):
        x = layers.LeakyReLU(0.1)(layers.DepthwiseConv2D(3)(files.conv(x)))
        return layers.Dropout(0.2, noise_shape=(None, 1, 1, None))(x)

    own = files.model(body)
    path = files.edited(files.written(own, tmp_path / "own.h5"), stranger, version="2.2.4")
    np.testing.assert_allclose(open_model(path)(files.images()), own(files.images()), atol=1e-6)


def test_layers_of_other_libraries_that_are_those_of_keras(tmp_path):
    """tensorflow-addons' normalisation is Keras's; the layers of EfficientNet's first copies are known activations."""
    groups = {"GroupNormalization": "Addons>GroupNormalization", "Activation": "Swish", "Dropout": "own>DropConnect"}

    def body(x):
        x = layers.Activation("swish")(layers.GroupNormalization(3)(files.conv(x)))
        return layers.Dropout(0.2)(layers.GroupNormalization(-1, name="instances")(x))

    def change(config):
        for layer in files.each_layer(config):
            settings, kind = layer["config"], layer["class_name"]
            layer["class_name"] = groups.get(kind, kind)
            if settings["name"] == "instances":
                layer["class_name"] = "Addons>InstanceNormalization"
                del settings["groups"]
            if kind in ("Activation", "Dropout"):
                for key in ("activation", "rate", "noise_shape", "seed"):
                    settings.pop(key, None)

    own = files.model(body)
    path = files.edited(files.written(own, tmp_path / "own.h5"), change, version="2.4.0")
    np.testing.assert_allclose(open_model(path)(files.images()), own(files.images()), atol=1e-6)


def test_a_model_for_several_gpus_is_the_model_that_they_share(tmp_path):
    """`multi_gpu_model` of Keras 2.0.9 to 2.3 slices the batch by Lambda layers, for which such files were refused."""
    inputs = tf_keras.Input((16, 16, 3))
    inner = files.model(files.conv)
    slices = [layers.Lambda(lambda x, i, parts: x, arguments={"i": i, "parts": 2}, name=f"lambda_{i}") for i in (0, 1)]
    joined = layers.Concatenate(axis=0, name="classes")([inner(one(inputs)) for one in slices])
    path = files.written(tf_keras.Model(inputs, joined), tmp_path / "own.h5")
    files.edited(path, lambda config: None, version="2.2.4")
    made = open_model(path)
    np.testing.assert_allclose(made(files.images()), inner(files.images()), atol=1e-6)
    write_statistics(path, made, tmp_path / "copy.h5")
    with h5py.File(tmp_path / "copy.h5") as copy:
        assert "lambda_0" in copy.attrs["model_config"]


def renamed(old, new):
    def change(config):
        for layer in files.each_layer(config):
            if layer["class_name"] == old:
                layer["class_name"] = new

    return change


def activated(config):
    next(one for one in files.each_layer(config) if one["class_name"] == "Conv2D")["config"]["activation"] = "my_relu"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (activated, "refused: .* uses the activation 'my_relu' .* saved by Keras 2.3.1, .* put an activation of Keras"),
        (renamed("ReLU", "TimeDistributed"), "saved by Keras 2.3.1, .* 'TimeDistributed', .* put other stock layers"),
        (renamed("ReLU", "LocallyConnected2D"), "'LocallyConnected2D', which Keras 3 does not have: open it in the"),
        (
            renamed("ReLU", "Own"),
            "refused: .* the class 'Own', which is not part of Keras; it was saved by Keras 2.3.1",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name_with_its_writer(change, said, own, tmp_path):
    path = files.edited(files.written(own, tmp_path / "own.h5"), change, version="2.3.1")
    with pytest.raises(FinetuneError, match=said):
        open_model(path)


def test_the_reason_of_keras_2_is_in_the_message(own, tmp_path):
    """It comes after the whole config of the layer."""

    def change(config):
        next(one for one in files.each_layer(config) if one["class_name"] == "Conv2D")["config"]["nb_filter"] = 3

    path = files.edited(files.written(own, tmp_path / "own.h5"), change, version="1.2.2")
    with pytest.raises(FinetuneError, match=r"saved by Keras 1\.2\.2, .*not understood.*nb_filter"):
        open_model(path)


def test_functions_of_tensorflow_as_activations(tmp_path):
    relu6 = layers.Conv2D(4, 1, activation=tf.nn.relu6)
    own = files.model(lambda x: layers.Conv2D(4, 1, activation=tf.nn.relu)(relu6(x)))
    for name in ("own.h5", "own.keras"):
        made = open_model(files.written(own, tmp_path / name))
        np.testing.assert_allclose(made(files.images()), own(files.images()), atol=1e-6)


def test_the_sum_in_inception_resnet_v2_is_read_though_it_is_a_lambda(tmp_path):
    """Up to Keras 2.14 it was a Lambda with an argument; its code is not looked at."""
    from tf_keras.src.applications.inception_resnet_v2 import CustomScaleLayer

    own = files.model(lambda x: CustomScaleLayer(0.2, name="block8_1")([x, layers.Conv2D(3, 1)(x)]))

    def change(config):
        layer = next(one for one in files.each_layer(config) if "CustomScaleLayer" in one["class_name"])
        layer["class_name"] = "Lambda"
        layer["config"] = {"name": "block8_1", "function": ["4wE=", None, None], "function_type": "lambda"}
        layer["config"] |= {"module": "keras.applications.inception_resnet_v2", "arguments": {"scale": 0.2}}

    path = files.written(own, tmp_path / "own.h5")
    np.testing.assert_allclose(open_model(path)(files.images()), own(files.images()), atol=1e-6)
    files.edited(path, change, version="2.4.0")
    np.testing.assert_allclose(open_model(path)(files.images()), own(files.images()), atol=1e-6)


def test_keras_3_and_weights_alone_are_not_of_keras_2(own, tmp_path):
    with h5py.File(files.written(own, tmp_path / "own.h5"), "r+") as file:
        file.attrs["keras_version"] = "3.3.1"
    assert read_legacy(tmp_path / "own.h5") is None
    own.save_weights(tmp_path / "weights.h5")
    assert read_legacy(tmp_path / "weights.h5") is None


def put(config, change):
    files.each_layer(config)[2].update(change)


CODE = {
    "a Lambda layer": (
        layers.Lambda(lambda x: x * 2),
        r"Python code \(a Lambda layer, 'lambda.*'\).* saved by Keras 2\.",
    ),
    "a class": ({"class_name": "Conv2D", "registered_name": "me>Conv2D"}, r"the class 'me>Conv2D'.*set_weights"),
    "another class": ({"class_name": "SiLU6"}, r"the class 'SiLU6', which is not part of Keras; it was saved by Keras"),
    "another layer": ({"class_name": "LSTM"}, r"has a layer of the class 'LSTM', which is not among"),
    "a function": (
        {"class_name": "TFOpLambda", "config": {"name": "x", "function": "io.write_file"}},
        r"calls TensorFlow's 'io.write_file' between its layers \('x'\)",
    ),
    "an operation": (
        {"class_name": "TensorFlowOpLayer", "config": {"name": "x", "node_def": {"op": "WriteFile"}}},
        r"calls TensorFlow's 'WriteFile'",
    ),
}


@pytest.mark.parametrize("kind", CODE)
def test_code_is_refused_with_its_name_the_version_and_a_way(kind, own, tmp_path, monkeypatch):
    content, words = CODE[kind]
    if isinstance(content, dict):
        path = files.edited(
            files.written(own, tmp_path / "own.h5"), lambda config: put(config, content), version="2.4.0"
        )
    else:
        path = files.written(files.model(lambda x: content(files.conv(x))), tmp_path / "own.h5")
    monkeypatch.setattr(tf_keras.layers, "deserialize", lambda *_, **__: pytest.fail("it was made"))
    with pytest.raises(FinetuneError, match=words) as caught:
        open_model(path)
    assert "copy it again" not in str(caught.value)


def test_a_config_that_is_no_json_is_damaged(own, tmp_path):
    with h5py.File(files.written(own, tmp_path / "own.h5"), "r+") as file:
        file.attrs["model_config"] = json.dumps({})[:-1]
    with pytest.raises(FinetuneError, match="not JSON: it is damaged, copy it again"):
        open_model(tmp_path / "own.h5")
