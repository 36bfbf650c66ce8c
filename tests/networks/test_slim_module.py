"""A SavedModel that tf_slim's own network was made into, as TF Hub's modules were: opened as a checkpoint."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from checkpoints.catalog.lookup import find_row
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import write_slim
from checkpoints.matching.fit import fits
from checkpoints.matching.structures import structures
from finetune.backbone import load_backbone
from finetune.inference.reference import mend
from tests.support.agreement import difference, random_images
from tests.support.slim_oracle import random_variables

OUTPUTS = 5
THIN = replace(
    find_row("slim/resnet_v1_50"), arguments={"units": (1, 1), "scope": "resnet_v1_50"}, outputs=OUTPUTS, image_size=32
)


def module(folder: Path, *, scope: str = "") -> tf.Module:
    """A thin resnet_v1_50 of tf_slim with random variables, saved with its object graph."""
    mend()
    import tf_slim as slim
    from tf_slim.nets import resnet_v1

    blocks = [
        resnet_v1.resnet_v1_block("block1", 64, 1, stride=2),
        resnet_v1.resnet_v1_block("block2", 128, 1, stride=1),
    ]

    def network(images: tf.Tensor) -> tf.Tensor:
        around = tf.compat.v1.variable_scope(scope) if scope else tf.name_scope("")
        with around, slim.arg_scope(resnet_v1.resnet_arg_scope(weight_decay=0.0)):
            logits, _ = resnet_v1.resnet_v1(images, blocks, OUTPUTS, is_training=False, scope="resnet_v1_50")
        return logits

    spec = tf.TensorSpec((2, 32, 32, 3))
    wrapped = tf.compat.v1.wrap_function(network, [spec])
    made = tf.Module()
    made.f, made.kept = tf.function(wrapped, input_signature=[spec]), wrapped.graph.variables
    values = random_variables({v.name.removesuffix(":0"): list(v.shape) for v in made.kept}, 0)
    for variable in made.kept:
        variable.assign(values[variable.name.removesuffix(":0")])
    tf.saved_model.save(made, str(folder))
    return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # tf_slim calls what TensorFlow deprecates
@pytest.mark.parametrize("scope", ["", "module"])
def test_a_module_of_slims_network_loads_by_slims_names(tmp_path: Path, scope: str) -> None:
    made = module(tmp_path / "hub", scope=scope)
    opened = open_checkpoint(tmp_path / "hub")
    assert opened.kind == "savedmodel"
    assert "resnet_v1_50/block1/unit_1/bottleneck_v1/conv2/BatchNorm/moving_mean" in opened.shapes
    assert all(name.startswith("resnet_v1_50/") for name in opened.shapes)
    images = random_images(32)
    loaded = load_backbone(THIN, image_size=32, checkpoint=tmp_path / "hub", head="published")
    want = made.f(tf.constant(images)).numpy().reshape(2, OUTPUTS)
    assert difference(loaded.model(images, training=False), want) < 1e-5
    assert not loaded.report.ignored
    bare = load_backbone(THIN, image_size=32, checkpoint=tmp_path / "hub")
    assert {reason: len(names) for reason, names in bare.report.ignored.items()} == {"old head": 2}


def test_a_checkpoint_in_a_scope_of_another_name_loads_and_fits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    entries = structures()["slim/mobilenet_v1_0.25"]
    values = {entry.name: rng.uniform(0.1, 1, entry.shape).astype(np.float32) for entry in entries}
    write_slim(tmp_path / "mine.ckpt", {f"tower/{name.replace('MobilenetV1', 'net')}": v for name, v in values.items()})
    spec = find_row("slim/mobilenet_v1_0.25")
    model = load_backbone(spec, image_size=32, checkpoint=tmp_path / "mine.ckpt").model
    kernel = model.get_layer("MobilenetV1.Conv2d_3_pointwise").kernel.numpy()
    np.testing.assert_array_equal(kernel, values["MobilenetV1/Conv2d_3_pointwise/weights"])
    best = fits(open_checkpoint(tmp_path / "mine.ckpt"))[0]
    assert (best.spec, best.exact, best.head, best.outputs) == (spec, True, "published", 1001)


def test_a_module_of_tf1_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    (tmp_path / "tfhub_module.pb").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a TF1 Hub module: expected a TF2 SavedModel"):
        open_checkpoint(tmp_path)


def test_a_saved_model_without_its_data_or_with_a_damaged_one(tmp_path: Path) -> None:
    made = tf.Module()
    made.v = tf.Variable(tf.ones(3), name="net/beta")
    tf.saved_model.save(made, str(tmp_path / "m"))
    assert open_checkpoint(tmp_path / "m" / "saved_model.pb").shapes == {"net/beta": (3,)}
    data = tmp_path / "m/variables/variables.data-00000-of-00001"
    content = data.read_bytes()
    data.write_bytes(content[:10])
    with pytest.raises(CheckpointError, match="a tensor lies beyond the end of its shard: that is cut off"):
        open_checkpoint(tmp_path / "m")
    data.unlink()
    with pytest.raises(CheckpointError, match=r"data-00000-of-00001 missing beside variables\.index"):
        open_checkpoint(tmp_path / "m")


def test_variables_of_one_name_keep_their_keys(tmp_path: Path) -> None:
    made = tf.Module()
    made.a, made.b = tf.Variable(1.0, name="w"), tf.Variable(2.0, name="w")
    tf.saved_model.save(made, str(tmp_path / "m"))
    opened = open_checkpoint(tmp_path / "m")
    assert {name: float(opened.read(name)) for name in opened.shapes} == {"a": 1.0, "b": 2.0}
