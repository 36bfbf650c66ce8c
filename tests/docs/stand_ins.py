"""What the reader of a page has, made small: thin networks under the catalogue's names, generated images of 32 px in
every form the pages speak of, a finished run. All of them are of one task, so that models and images fit together.
"""

import contextlib
import functools
import http.server
import os
import pickle
import shutil
import signal
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from checkpoints.catalog.lookup import CATALOG, BackboneSpec, find_row
from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import everything, write_slim
from checkpoints.matching.structures import structures
from finetune.backbone import networks
from finetune.backbone.file_names import network_entries
from finetune.backbone.networks.names import slim_variables
from finetune.cli import main
from finetune.cli.display_training import ConsoleDisplay
from finetune.data.dataset import Split, stratified_subset
from finetune.data.sources import generated
from finetune.inference import reference
from tests.support.places import ROOT

SERVED = (
    *("resnet_v1_50", "resnet_v1_101", "resnet_v1_152", "resnet_v1_200", "inception_v1"),
    *("mobilenet_v1_0.25", "mobilenet_v1_1.0"),
)
"""The rows pages name. Their files are written with random weights and served where the published ones would be."""

JOBS = """\
[defaults]
backbone = "resnet_v1_demo"
data = "demo-target"
examples = 60
epochs = 1
image-size = 16
batch-size = 20
[matrix]
learning-rate = [0.003, 0.001]
"""

MY_BATCH = "".join(f'[[job]]\nname = "{name}"\nbackbone = "resnet_v1_50"\nseed = {name}\n' for name in (1, 2))
"""Of a batch whose runs are there."""


@contextlib.contextmanager
def thin_rows() -> Iterator[None]:
    """Rows of slim's ResNet v1 with a unit a block and an eighth of the width: same names, stages and rules."""
    known = structures()
    assert isinstance(known, dict)
    rows = [spec for spec in CATALOG if spec.family == "resnet_v1" and spec.source == "slim"]
    whole = [(spec.arguments, known[spec.id]) for spec in rows]
    for spec in rows:
        object.__setattr__(spec, "arguments", {**spec.arguments, "units": (1, 1, 1, 1), "width": 8})
        known[spec.id] = tuple(network_entries(_network(spec).model, source="slim"))
    try:
        yield
    finally:
        for spec, (arguments, entries) in zip(rows, whole, strict=True):
            object.__setattr__(spec, "arguments", arguments)
            known[spec.id] = entries


def _network(spec: BackboneSpec) -> networks.Network:
    return networks.build(
        spec.family, image_size=spec.least_size, outputs=spec.outputs or 1, arguments=dict(spec.arguments)
    )


def write_mirror(folder: Path) -> None:
    """An archive for each row of SERVED that has an address."""
    for name in SERVED:
        spec = find_row(f"slim/{name}")
        if spec.url is None:
            continue
        arrays = {name: np.asarray(variable) for name, variable in slim_variables(_network(spec).model).items()}
        if spec.family == "resnet_v1":  # as in the published files, which were converted from Caffe
            arrays[f"{spec.name}/mean_rgb"] = np.array([123.68, 116.78, 103.94], np.float32)
        path = folder / spec.url.partition("://")[2].partition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = folder / f"{spec.name}.ckpt"
        write_slim(prefix, arrays)
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            for ending in (".index", ".data-00000-of-00001"):
                archive.add(f"{prefix}{ending}", arcname=f"{prefix.name}{ending}")


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of that folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _typed(*words: object, code: int = 0) -> None:
    result = CliRunner().invoke(main, [str(word) for word in words], prog_name="finetune")
    assert result.exit_code == code, f"{words}: {result.output}"


def make_home(home: Path) -> None:
    """FINETUNE_HOME with CIFAR-10 in it: the generated images in the published format."""
    task = generated.demo_target()
    folder = home / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, split, times in (
        ("data_batch_1", stratified_subset(task.train, 200, 0), 30),
        ("test_batch", stratified_subset(task.test, 100, 0), 1),
    ):
        # As many as the examples ask for: the same images over and over.
        planes = np.tile(split.images.transpose(0, 3, 1, 2).reshape(len(split), -1), (times, 1))
        labels = np.tile(split.labels, times).tolist()
        (folder / name).write_bytes(pickle.dumps({b"data": planes, b"labels": labels}, protocol=2))
    names = [name.encode() for name in task.class_names]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))


def make_shelf(shelf: Path) -> None:
    """Everything pages name that the reader brings, in the folder `shelf`."""
    task = generated.demo_target()
    small = stratified_subset(task.train, 200, 1)
    _photos(shelf / "photos", small, task.class_names)
    shutil.copytree(shelf / "photos", shelf / "flowers")
    shutil.copytree(next((shelf / "photos").iterdir()), shelf / "holiday")
    shutil.copy(next((shelf / "holiday").iterdir()), shelf / "photo.jpg")
    _tfrecords(shelf / "tfrecords", small, stratified_subset(task.test, 60, 0), task.class_names)
    (shelf / "JOBS.toml").write_text(JOBS)

    small_run = ("--image-size", 32, "--batch-size", 20, "--epochs", 2, "--quiet")
    made = ("run", "--backbone", "resnet_v1_50", "--data", shelf / "photos", *small_run)
    _typed(*made, "--run-dir", shelf / "RUN")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConsoleDisplay, "step", lambda self, **values: os.kill(os.getpid(), signal.SIGINT))
        _typed(*made, "--run-dir", shelf / "runs" / "big", code=130)
    for name in (
        "runs/flowers",
        "runs/my-run",
        "runs/a",
        "runs/b",
        "runs/c",
        "runs/photos",
        "my-batch/1",
        "my-batch/2",
    ):
        shutil.copytree(shelf / "RUN", shelf / name)
    (shelf / "my-batch.toml").write_text(MY_BATCH)
    _typed("batch", shelf / "my-batch.toml", "--summary-only", "--json")

    shutil.copytree(Path(os.environ["FINETUNE_HOME"]) / "data", shelf / "DIR")
    _keras_model(shelf / "model.keras", task.train)
    _typed("export", shelf / "RUN", "--format", "slim", "--no-evaluation", "--out", shelf / "exported" / "model.ckpt")
    arrays = everything(open_checkpoint(shelf / "exported" / "model.ckpt"))
    write_slim(shelf / "resnet_v1_50.ckpt", arrays)
    write_slim(shelf / "model.ckpt", arrays)
    _tf1_training(shelf / "train_dir", arrays)
    for file in (shelf / "train_dir").glob("model.ckpt-1000*"):
        shutil.copy(file, shelf)
    shutil.rmtree(shelf / "exported")


def _photos(folder: Path, split: Split, class_names: tuple[str, ...]) -> None:
    for number, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True)):
        place = folder / class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:03d}.jpg", quality=95)


def _tfrecords(folder: Path, train: Split, test: Split, class_names: tuple[str, ...]) -> None:
    folder.mkdir()
    for name, split in (("train", train), ("validation", test)):
        with tf.io.TFRecordWriter(str(folder / f"photos_{name}_00000-of-00001.tfrecord")) as writer:
            for pixels, label in zip(split.images, split.labels, strict=True):
                content = tf.io.encode_png(pixels).numpy()
                features = {
                    "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
                    "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"png"])),
                    "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    (folder / "labels.txt").write_text("".join(f"{label}:{name}\n" for label, name in enumerate(class_names)))


def _keras_model(path: Path, train: Split) -> None:
    """Trained with the default momentum of 0.99 in 126 steps: its moving statistics lag."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Input((32, 32, 3))]
    for width in (12, 24):
        layers += [keras.layers.Conv2D(width, 3, 2, use_bias=False), keras.layers.BatchNormalization()]
        layers += [keras.layers.ReLU()]
    model = keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(train.images.astype("float32") / 127.5 - 1, train.labels, epochs=2, batch_size=32, verbose=0)
    model.save(path)


def _tf1_training(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """A training directory of slim: graph, update operations that nobody ran, checkpoint."""
    folder.mkdir()
    v1 = tf.compat.v1
    with reference.tf1_graph():
        images = v1.placeholder(tf.float32, [None, 64, 64, 3], "images")
        training = v1.placeholder_with_default(False, [], "is_training")
        labels = v1.placeholder(tf.int64, [None], "labels")
        arguments = find_row("resnet_v1_50").arguments
        logits = reference.slim_logits("resnet_v1", images, 10, is_training=training, **arguments)
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=tf.squeeze(logits, [1, 2]))
        )
        step = v1.train.get_or_create_global_step()
        v1.train.GradientDescentOptimizer(0.01).minimize(loss, global_step=step)
        # The graph begins at 0/1 and ends there: statistics that never moved.
        values = {name: value for name, value in arrays.items() if "moving_" not in name}
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            for variable in v1.global_variables():
                if variable.op.name in values:
                    variable.load(values[variable.op.name], session)
            session.run(step.assign(1000))
            v1.train.Saver().save(session, str(folder / "model.ckpt"), global_step=step)


def lay_out(shelf: Path, folder: Path) -> None:
    """A page's own copy of everything: it may write anywhere in it."""
    for path in shelf.iterdir():
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copy(path, folder / path.name)
    (folder / "examples").symlink_to(ROOT / "examples")
