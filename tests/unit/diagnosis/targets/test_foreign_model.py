"""A slim checkpoint of one's own: without moving statistics, with a background class."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from checkpoints.catalog.lookup import find_row
from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import write_slim
from finetune.backbone import load_backbone
from finetune.diagnosis.doctor import recalibrate_bn
from finetune.diagnosis.targets.opening import open_target
from finetune.diagnosis.targets.options import TargetOptions
from finetune.evaluation.evaluator import Evaluator
from finetune.inference import reference
from tests.support import slim_oracle
from tests.support.places import SHARED

SPEC = find_row("resnet_v1_demo")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    images = rng.integers(0, 256, (48, 16, 16, 3)).astype(np.uint8)
    labels = np.arange(48) % 3
    np.savez(path, x_train=images[:32], y_train=labels[:32], x_test=images[32:], y_test=labels[32:])
    return path


@pytest.mark.slow
def test_statistics_that_a_file_lacks_are_measured_and_written_for_tf1(data: Path, tmp_path: Path) -> None:
    scope = "my_model/"
    slim = slim_oracle.resnet_v1(np.zeros((1, 16, 16, 3), np.float32), outputs=3, **SPEC.arguments)
    saved = {f"{scope}{name}": array for name, array in slim.variables.items() if "moving" not in name}
    write_slim(tmp_path / "m", saved)
    request = TargetOptions(backbone=SPEC.name, checkpoint=tmp_path / "m", data=str(data), image_size=16, batch_size=32)
    target = open_target(request)
    assert any("lacks" in note and "they start at 0 and 1" in note for note in target.notes)
    assert target.history.facts.statistics_absent
    recalibrate_bn(target, out=tmp_path / "out")
    written = open_checkpoint(tmp_path / "out")
    assert [*written.shapes] == sorted(f"{scope}{name}" for name in slim.variables)
    inputs = np.load(data)["x_train"].astype(np.float64) / 127.5 - 1
    conv = tf.nn.conv2d(inputs, slim.variables["resnet_v1_demo/conv1/weights"].astype(np.float64), 1, "SAME").numpy()
    for name, expected in (("moving_mean", conv.mean((0, 1, 2))), ("moving_variance", conv.var((0, 1, 2)))):
        ours = written.read(f"{scope}resnet_v1_demo/conv1/BatchNorm/{name}")
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    # TF1's own Saver restores all of it into tf_slim's graph, which computes what this package does.
    names = {name: f"{scope}{name}" for name in slim.variables}
    theirs = reference.run(SPEC, written, inputs[:4].astype(np.float32), outputs=3, names=names)
    model = load_backbone(SPEC, image_size=16, checkpoint=written, head=3).model
    ours = np.asarray(model(inputs[:4].astype(np.float32), training=False))
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


CASE = SHARED / "cases/background_class/model.ckpt"


@pytest.mark.slow
@pytest.mark.skipif(not Path(f"{CASE}.index").is_file(), reason=f"no {CASE}")
def test_a_background_class_in_ones_own_data(tmp_path: Path) -> None:
    """A MobileNet with six outputs that research/slim trained on five kinds of flowers: its own accuracies."""
    flowers = SHARED / "data/flowers"
    names = sorted(path.name for path in (flowers / "train").iterdir())
    (tmp_path / "labels.txt").write_text("0:background\n" + "".join(f"{i}:{one}\n" for i, one in enumerate(names, 1)))
    for split, folder, most in (("train", "train", 1), ("validation", "val", 100)):
        with tf.io.TFRecordWriter(str(tmp_path / f"flowers_{split}_00000-of-00001.tfrecord")) as writer:
            for label, name in enumerate(names, start=1):
                for photo in sorted((flowers / folder / name).iterdir())[:most]:
                    writer.write(_record(photo.read_bytes(), label))
    request = TargetOptions(
        backbone="mobilenet_v1_0.25", checkpoint=CASE, data=str(tmp_path), image_size=96, batch_size=100
    )
    target = open_target(request)
    assert target.data.dataset.class_names == ("background", *names)
    evaluator, images = Evaluator(target.subject), target.data.test()
    found = [evaluator.evaluate(images.batches(), statistics).correct for statistics in ("moving", "batch")]
    assert found == [46, 52]


def _record(content: bytes, label: int) -> bytes:
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
        "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"jpg"])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def frozen_base(path: Path, *, trained: str = "") -> None:
    """A head on a base that normalises its input; every layer of the base is marked as frozen, but `trained`."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    base = keras.Model(image, keras.layers.BatchNormalization(name="bn")(x), name="base")
    for layer in base.layers:
        layer.trainable = layer.name == trained
    again = keras.Input((8, 8, 3))
    head = keras.layers.Dense(2, name="head")(keras.layers.GlobalAveragePooling2D()(base(again)))
    keras.Model(again, head).save(path)


@pytest.mark.parametrize(("trained", "moved"), [("", False), ("conv", None), ("bn", None)])
def test_a_file_shows_that_its_base_was_frozen(trained: str, moved: bool | None, tmp_path: Path) -> None:
    frozen_base(tmp_path / "m.keras", trained=trained)
    labels = np.arange(40) % 2
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), "u1")
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    options = TargetOptions(target=tmp_path / "m.keras", data=str(tmp_path / "d.npz"), preprocess="unit")
    assert open_target(options).history.facts.base_moved is moved
    # The file it was made from decides, where it is given.
    source = TargetOptions(**{**vars(options), "source_checkpoint": tmp_path / "m.keras"})
    assert open_target(source).history.facts.base_moved is False


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("kind", [{"renorm": True}, {"virtual_batch_size": 2}, {}])
def test_a_graph_that_stands_for_another_batchnorm_says_so(kind: dict[str, int], data: Path, tmp_path: Path) -> None:
    """A SavedModel holds the graph for serving, in which such a layer is as any other."""
    layers = tf_keras.layers
    stack = [layers.Conv2D(4, 3, 2), layers.BatchNormalization(**kind), layers.GlobalAveragePooling2D()]
    model = tf_keras.Sequential([tf_keras.Input((16, 16, 3)), *stack, layers.Dense(3)])
    model.save(tmp_path / "own", save_format="tf")
    target = open_target(TargetOptions(target=tmp_path / "own", data=str(data), preprocess="unit"))
    said = [note for note in target.notes if "is plain BatchNorm here" in note and "model.save('model.h5')" in note]
    assert bool(said) == bool(kind)
    images = np.load(data)["x_test"][:4].astype(np.float32) / 255
    ours = np.asarray(target.subject.forward("moving")(images)[0])
    np.testing.assert_allclose(ours, model(images, training=False), atol=1e-5)
