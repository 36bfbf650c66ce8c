"""A run on a slim checkpoint that is not the usual one: no statistics, averages, a background class."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from checkpoints.catalog.lookup import find_row
from checkpoints.errors import CheckpointError
from checkpoints.formats.slim import write_slim
from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.training.display import Display
from finetune.training.phases import Prepared
from finetune.training.prepare import prepare
from tests.support import slim_oracle

SPEC = find_row("resnet_v1_demo")
CONV, BN = "resnet_v1_demo/conv1/weights", "resnet_v1_demo.conv1.BatchNorm"
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)


class Lines(Display):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def variables() -> dict[str, np.ndarray]:
    """Of tf_slim's own network with four outputs."""
    images = np.zeros((1, 32, 32, 3), np.float32)
    return slim_oracle.resnet_v1(images, outputs=4, **SPEC.arguments).variables


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes numbered from 1, as slim's scripts write them, with the background in labels.txt."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "labels.txt").write_text("0:background\n1:a\n2:b\n3:c\n")
    for split, images in (("train", IMAGES[:12]), ("validation", IMAGES[12:18])):
        with tf.io.TFRecordWriter(str(folder / f"x_{split}_00000-of-00001.tfrecord")) as writer:
            for number, image in enumerate(images):
                content = tf.io.encode_png(image).numpy()
                features = {
                    "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
                    "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"png"])),
                    "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 3 + 1])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())
    return folder


def prepared(checkpoint: Path, records: Path, display: Display | None = None, **more: object) -> Prepared:
    settings = {"validation": 0.0, "image_size": 32, "epochs": 1, "batch_size": 4, **more}
    config = RunConfig(SPEC.id, checkpoint=str(checkpoint), data=str(records), **settings)  # type: ignore[arg-type]
    return prepare(config, display or Display(), load_weights=True)


@pytest.mark.slow
def test_statistics_that_the_file_lacks_are_measured(
    variables: dict[str, np.ndarray], records: Path, tmp_path: Path
) -> None:
    write_slim(tmp_path / "m", {name: array for name, array in variables.items() if "moving" not in name})
    lines = Lines()
    run = prepared(tmp_path / "m", records, lines)
    assert any("measuring the moving statistics" in line for line in lines.said)
    assert any("lacks" in line and "trainable_variables" in line for line in lines.said)
    inputs = IMAGES[:12].astype(np.float64) / 127.5 - 1
    conv = tf.nn.conv2d(inputs, variables[CONV].astype(np.float64), 1, "SAME").numpy()
    layer = run.model.get_layer(BN)
    np.testing.assert_allclose(layer.moving_mean, conv.mean((0, 1, 2)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, conv.var((0, 1, 2)), rtol=1e-5)


@pytest.mark.slow
def test_a_run_starts_from_averages_where_it_is_asked_to(
    variables: dict[str, np.ndarray], records: Path, tmp_path: Path
) -> None:
    average = variables[CONV] / 2
    write_slim(tmp_path / "m", {**variables, f"{CONV}/ExponentialMovingAverage": average})
    lines = Lines()
    for wanted, expected in ((False, variables[CONV]), (True, average)):
        run = prepared(tmp_path / "m", records, lines, from_averages=wanted)
        np.testing.assert_array_equal(run.model.get_layer("resnet_v1_demo.conv1").kernel, expected)
    assert "--from-averages: 1 variables read from their moving averages" in "\n".join(lines.said)
    write_slim(tmp_path / "raw", variables)
    with pytest.raises(CheckpointError, match="leave out --from-averages"):
        prepared(tmp_path / "raw", records, from_averages=True)
    with pytest.raises(CheckpointError, match=r"holds no moving averages of weights"):  # the published file
        prepare(RunConfig(SPEC.id, data=str(records), from_averages=True), Display(), load_weights=True)


@pytest.mark.slow
def test_a_kept_head_keeps_its_background_class(
    variables: dict[str, np.ndarray], records: Path, tmp_path: Path
) -> None:
    write_slim(tmp_path / "m", variables)
    run = prepared(tmp_path / "m", records, head="keep")
    assert run.dataset.class_names == ("background", "a", "b", "c")
    assert run.model.output_shape == (None, 4)
    assert sorted(set(run.dataset.train.labels.tolist())) == [1, 2, 3]
    assert run.config.background_class
    # Whoever opens the run later gets the same numbers.
    assert load_data(run.config).class_names == run.dataset.class_names
