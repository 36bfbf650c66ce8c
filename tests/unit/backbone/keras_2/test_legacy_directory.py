"""SavedModels of Keras 2 as Keras 3 models of stock layers: the same logits, the same layers frozen."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.core.protobuf import saved_model_pb2
from tf_keras.protobuf import saved_metadata_pb2

from checkpoints.formats.keras_metadata import recorded
from finetune.backbone import find_backbone, load_backbone, open_model
from finetune.backbone.keras_2.legacy_directory import has_layers
from finetune.errors import FinetuneError

layers = tf_keras.layers
SIDE = 12
PIXELS = np.random.default_rng(0).uniform(0, 255, (6, SIDE, SIDE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A nested base called in inference mode, mixed precision, augmentation, arithmetic, learned normalisation."""
    given, images = tf_keras.Input((SIDE, SIDE, 3)), tf_keras.Input((SIDE, SIDE, 3))
    x = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(4, 3)(given))
    base = tf_keras.Model(given, layers.ReLU()(x), name="base")
    normal = layers.Normalization()
    normal.adapt(PIXELS)
    x = tf_keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)])(images)
    x = base(tf_keras.applications.mobilenet_v2.preprocess_input(normal(x) * 40.0), training=False)
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        x = layers.BatchNormalization(name="top")(layers.Conv2D(5, (3, 1), strides=(2, 1), name="mixed")(x))
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    x = layers.GlobalAveragePooling2D()(layers.Activation("relu", dtype="float32")(x))
    model = tf_keras.Model(images, layers.Dense(3, activation="softmax")(x))
    rng = np.random.default_rng(1)
    for layer in (*base.layers, *model.layers):
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, one.shape) for one in layer.get_weights()])
    path = tmp_path_factory.mktemp("keras_2") / "model"
    model.save(path, save_format="tf")
    return path, model


def agrees(path, model):
    expected = np.asarray(model(PIXELS, training=False), np.float32)
    opened = open_model(path)
    np.testing.assert_allclose(opened(PIXELS, training=False), expected, atol=2e-3)  # float16 there, float32 here
    return opened


@pytest.mark.slow
def test_a_saved_model_is_the_same_network_in_keras_3(saved):
    path, model = saved
    opened = agrees(path, model)
    frozen = {
        one.name: one.trainable for one in opened._flatten_layers() if isinstance(one, keras.layers.BatchNormalization)
    }
    assert frozen == {"top": True, **{name: False for name in frozen if name != "top"}}
    assert len(frozen) == 2
    assert recorded(path).version == tf_keras.__version__
    spec = find_backbone(str(path))
    assert (spec.source, spec.image_size, spec.outputs, spec.bn_decay) == ("file", SIDE, 3, pytest.approx(0.9))
    backbone = load_backbone(spec, image_size=SIDE)
    assert backbone.model.output_shape == (None, 5)
    assert backbone.report.ignored["old head"]


@pytest.mark.slow
def test_the_config_that_tensorflow_2_4_kept_in_the_graph_is_read(saved, tmp_path):
    path, model = saved
    tf.io.gfile.makedirs(str(tmp_path / "old" / "variables"))
    for name in ("variables/variables.index", "variables/variables.data-00000-of-00001"):
        (tmp_path / "old" / name).write_bytes((path / name).read_bytes())
    metadata = saved_metadata_pb2.SavedMetadata.FromString((path / "keras_metadata.pb").read_bytes())
    proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for one in metadata.nodes:
        proto.meta_graphs[0].object_graph_def.nodes[one.node_id].user_object.metadata = one.metadata
    (tmp_path / "old" / "saved_model.pb").write_bytes(proto.SerializeToString())
    assert recorded(tmp_path / "old") == recorded(path)
    agrees(tmp_path / "old", model)


def test_python_code_is_not_made_into_layers_and_strange_variables_are_told(saved, tmp_path):
    path, _ = saved
    given = tf_keras.Input((SIDE, SIDE, 3))
    x = layers.Flatten()(layers.Lambda(lambda pixels: pixels / 255.0)(given))
    tf_keras.Model(given, layers.Dense(3)(x)).save(tmp_path / "lambda", save_format="tf")
    assert not has_layers(tmp_path / "lambda")
    with pytest.raises(FinetuneError, match=r"holds Python code \(a Lambda layer, 'lambda"):
        open_model(tmp_path / "lambda")
    for one in (tmp_path / "lambda" / "variables").iterdir():
        (path / "variables" / one.name).write_bytes(one.read_bytes())
    with pytest.raises(FinetuneError, match="are not those of the layers it records"):
        open_model(path)
