"""The attacks of docs/evidence/reliability.md, each through the command line or a public function: one clear error."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from finetune.backbone.hub import signatures
from finetune.batch.jobs import read_jobs
from finetune.cli.terminal import neutral
from tests.support.commands import typed

STEERING = "\x1b]0;owned\x07\x1b[2J\u202e"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of its own, in which an attack would show."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(line, *words, code=1):
    result = typed(line)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "unexpected" not in result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, (word, result.stderr)
    assert not any(
        name.startswith(("PWNED", "canary")) for _, folders, files in os.walk(".") for name in folders + files
    )
    return result.stderr


class Runs:
    def __reduce__(self):
        return os.system, ("touch PWNED",)


def test_a_pickle_that_calls_os_system(here):
    folder = here / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": Runs()}))
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Runs()}))
    refused(
        "run --backbone resnet_v1_demo --data cifar10 --data-dir . --run-dir r",
        "refused",
        "posix.system",
        "data_batch_1",
    )
    assert not (here / "r").exists()


def test_object_arrays_in_npz(here):
    objects = np.empty(4, object)
    objects[:] = [Runs()] * 4
    np.savez("data.npz", x_train=objects, y_train=np.zeros(4, int))
    refused("run --backbone resnet_v1_demo --data ./data.npz --run-dir r", "asks to run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predictions.npz", "bn_source.npz"])
def test_object_arrays_in_a_runs_files(finished, here, name):
    import shutil

    shutil.copytree(finished[0], "run")
    objects = np.empty(1, object)
    objects[:] = [Runs()]
    np.savez(f"run/{name}", labels=objects, **{"x:mean": objects})
    refused("report run" if name == "predictions.npz" else "diagnose-bn run --quiet", name, "damaged")


@pytest.mark.slow
def test_object_arrays_in_a_runs_state(interrupted, here):
    import shutil

    shutil.copytree(interrupted, "run")
    objects = np.empty(1, object)
    objects[:] = [Runs()]
    np.savez("run/checkpoints/state.npz", notes=objects)
    refused("run --resume run --quiet", "state.npz is damaged")


def packed(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = 3 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"abc"))


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (("../canary", tarfile.REGTYPE, ""), "a path outside of it"),
        (("/tmp/canary", tarfile.REGTYPE, ""), "a path outside of it"),
        (("a/../../canary", tarfile.REGTYPE, ""), "a path outside of it"),
        (("canary", tarfile.SYMTYPE, "/etc/passwd"), "holds a link"),
        (("canary", tarfile.LNKTYPE, "/etc/passwd"), "holds a link"),
        (("canary", tarfile.CHRTYPE, ""), "a device or pipe"),
    ],
)
@pytest.mark.parametrize("line", ["checkpoint inspect x.tar.gz", "run SMALL --checkpoint x.tar.gz --run-dir r"])
def test_an_archive_that_leaves_its_directory(member, said, line, here):
    packed("x.tar.gz", member)
    refused(line, said, "not unpacked")


def test_a_tar_bomb(here):
    """40 MB of gzip that become 40 GB would take minutes to write: a header says so, and is enough."""
    header = tarfile.TarInfo("model.ckpt")
    header.size = 40 << 30
    with __import__("gzip").open("x.tar.gz", "wb", 1) as out:
        out.write(header.tobuf())
        for _ in range(64):
            out.write(bytes(1 << 20))
    refused("checkpoint inspect x.tar.gz", "unpacks to more than")


def keras_model(*layers):
    images = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="conv")(images))
    for layer in layers:
        x = layer(x)
    return keras.Model(images, keras.layers.Dense(3)(x))


@pytest.mark.slow
@pytest.mark.parametrize("line", ["checkpoint inspect x.keras", "backbones show ./x.keras"])
def test_a_keras_bomb(line, here):
    with zipfile.ZipFile("x.keras", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("config.json", "{}")
        out.writestr("metadata.json", "{}")
        with out.open("model.weights.h5", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
    refused(line, "bytes that unpack to 314572800: it is not read")


@pytest.mark.parametrize("name", ["../canary", "/tmp/canary", "a/../../canary", "..\\canary"])
@pytest.mark.parametrize("line", ["checkpoint inspect x.keras", "backbones show ./x.keras"])
def test_a_keras_file_that_leaves_its_directory(name, line, here):
    keras_model().save("x.keras")
    with zipfile.ZipFile("x.keras", "a") as out:
        out.writestr(name, "x")
    refused(line, "a path outside of it")


def test_an_npz_bomb(here):
    """A header that claims 32 GB of images, and members that unpack to nothing of the kind or to zeros."""
    shape = (3_000_000, 64, 64, 3)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile("data.npz", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("x_train.npy", header.getvalue() + bytes(1000))
        out.writestr("y_train.npy", header.getvalue())
    refused("run --backbone resnet_v1_demo --data ./data.npz --run-dir r", "x_train is damaged", "1000 bytes of")


def png(width, height, rows=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def photos(*names):
    for name in names:
        os.makedirs(name)
        Image.new("RGB", (20, 20)).save(f"{name}/1.png")


def test_an_image_of_60_000_by_60_000_pixels(here):
    photos("data/a", "data/b")
    Path("data/b/huge.png").write_bytes(png(60_000, 60_000, bytes(180_001 * 200)))
    refused(
        "run --backbone resnet_v1_demo --data ./data --run-dir r",
        "huge.png",
        "more than 89 million pixels",
        "--skip-bad-images",
    )


def test_a_png_bomb_in_its_text(here):
    """A compressed text chunk of 1 GB: Pillow's limit holds."""
    photos("data/a", "data/b")
    text = b"Comment\0\0" + zlib.compress(bytes(64 << 20), 9)
    content = Path("data/a/1.png").read_bytes()
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    Path("data/b/bomb.png").write_bytes(content[:33] + chunk + content[33:])
    refused("run --backbone resnet_v1_demo --data ./data --run-dir r", "bomb.png", "damaged")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_model_with_a_lambda_layer(suffix, here):
    keras_model(keras.layers.Lambda(lambda x: (__import__("os").mkdir("PWNED"), x)[1])).save(f"x{suffix}")
    os.path.isdir("PWNED") and os.rmdir("PWNED")
    assert "Lambda" in refused(f"backbones show ./x{suffix}", "refused", "Python code")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["os", "subprocess", "shutil", "keras.src.utils.file_utils"])
def test_a_model_that_names_a_module(module, here):
    """A config may name any module and class: Keras imports what it names, unless it is in safe mode and knows it."""
    keras_model().save("x.keras")
    with zipfile.ZipFile("x.keras") as old, zipfile.ZipFile("y.keras", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                text = data.decode().replace('"class_name": "Conv2D"', '"class_name": "system"')
                data = text.replace('"module": "keras.layers"', f'"module": "{module}"').encode()
            new.writestr(name, data)
    refused("backbones show ./y.keras", "y.keras")


def test_an_hdf5_external_link(here):
    with h5py.File("other.h5", "w") as file:
        file["x"] = np.ones(3)
    keras_model().save_weights("x.weights.h5")
    with h5py.File("x.weights.h5", "r+") as file:
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars/0"] = h5py.ExternalLink("other.h5", "/x")
    refused("checkpoint inspect x.weights.h5", "holds a link at layers/conv2d/vars/0")


@pytest.mark.slow
def test_hdf5_that_hangs_its_library(here):
    """The heap that holds an attribute's text, with an object of no size in it: HDF5 steps over it for ever."""
    keras_model().save("x.h5")
    content = bytearray(Path("x.h5").read_bytes())
    at = content.find(b"GCOL")
    assert at > 0
    hangs = 0
    for offset in range(at + 16, at + 400, 8):
        changed = bytearray(content)
        changed[offset : offset + 16] = bytes(16)
        Path("x.h5").write_bytes(changed)
        result = typed("backbones show ./x.h5")
        assert result.exit_code in (0, 1), result.output
        hangs += "hangs or crashes" in result.stderr
        if hangs:
            break
    assert hangs, "no damage to the heap made HDF5 hang: the trial has nothing to catch"


class Module(tf.Module):
    def __init__(self, run):
        super().__init__()
        self.kernel = tf.Variable(tf.ones([3, 4]), name="conv/weights")
        self.run = run

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([], tf.bool)])
    def __call__(self, images, training):
        return tf.reduce_mean(images, [1, 2]) @ self.kernel + self.run()


def reads():
    return tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)


def writes():
    with tf.control_dependencies([tf.io.write_file("PWNED", "x")]):
        return tf.constant(0.0)


def calls():
    return tf.numpy_function(lambda: np.float32(os.system("touch PWNED")), [], tf.float32)


def hidden():
    return tf.cond(tf.constant(True), tf.function(writes), lambda: 0.0)


def saves():
    tf.raw_ops.SaveV2(prefix="PWNED", tensor_names=["x"], shape_and_slices=[""], tensors=[tf.constant(1.0)])
    return tf.constant(0.0)


def text_table():
    Path("vocabulary.txt").write_text("a\nb\n")
    table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer("vocabulary.txt", tf.string, 0, tf.int64, 1, delimiter=" "), 0
    )
    return table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "operation"),
    [(reads, "ReadFile"), (writes, "WriteFile"), (calls, "PyFunc"), (hidden, "WriteFile"), (saves, "SaveV2")],
)
@pytest.mark.parametrize(
    "line", ["backbones show hub:m", "run SMALL2 --backbone hub:m", "diagnose-bn m --data demo-target"]
)
def test_a_module_with_a_training_argument_that_does_more_than_compute(run, operation, line, here):
    """These are called as they were saved: the gap that graphs without the argument never had."""
    tf.saved_model.save(Module(run), "m")
    line = line.replace("run SMALL2", "run --data demo-target --examples 60 --epochs 1 --image-size 16 --run-dir r")
    refused(line, f"operation {operation}", "only run if they compute and do nothing else")


def test_a_module_that_computes_is_called(here):
    tf.saved_model.save(Module(lambda: 0.0), "m")
    assert signatures.load("m").can_train
    result = typed("backbones show hub:m")
    assert result.exit_code == 0, result.output


def test_a_module_that_initialises_itself_with_a_file(here):
    module = Module(lambda: 0.0)
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(["a"]), tf.constant([1], tf.int64)), 0
    )
    tf.saved_model.save(module, "m")
    refused("backbones show hub:m", "Table", "known to compute only")  # whichever comes first in the file


def test_a_module_of_two_graphs_is_not_loaded_as_one_of_tf1(here):
    """With a second graph TensorFlow falls back to its loader for TF1, which runs the operation for initialising."""
    from tensorflow.core.protobuf import saved_model_pb2

    tf.saved_model.save(Module(lambda: 0.0), "m")
    message = saved_model_pb2.SavedModel()
    message.ParseFromString(Path("m/saved_model.pb").read_bytes())
    message.meta_graphs.add().CopyFrom(message.meta_graphs[0])
    Path("m/saved_model.pb").write_bytes(message.SerializeToString())
    refused("backbones show hub:m", "holds 2 graphs")


def test_an_operation_that_tensorflow_does_not_have(here):
    from tensorflow.core.protobuf import saved_model_pb2

    tf.saved_model.save(Module(lambda: tf.abs(-1.0)), "m")
    message = saved_model_pb2.SavedModel()
    message.ParseFromString(Path("m/saved_model.pb").read_bytes())
    for function in message.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op == "MatMul":
                node.op = "SomebodysOwnOp"
    Path("m/saved_model.pb").write_bytes(message.SerializeToString())
    refused("backbones show hub:m", "operation SomebodysOwnOp", "TensorFlow does not have")


@pytest.mark.slow
def test_a_class_folder_that_is_called_as_its_parent(here):
    """A folder cannot be called ../x; a list of names can."""
    images = np.random.default_rng(0).integers(0, 256, (44, 16, 16, 3), np.uint8)
    np.savez(
        "data.npz", x_train=images[:40], y_train=np.arange(40) % 2, x_test=images[40:],
        y_test=np.arange(4) % 2,
        class_names=np.array(["../canary", f"<script>alert(1)</script>{STEERING}"]),
    )  # fmt: skip
    result = typed("run --backbone TINY_FILE --data ./data.npz --epochs 1 --image-size 16 --quiet --run-dir out/r")
    assert result.exit_code == 0, result.output
    result = typed("report out/r --html page.html --quiet")
    assert result.exit_code == 0, result.output
    page = Path("page.html").read_text()
    assert "<script>alert" not in page
    assert "\x1b" not in page + result.output
    assert sorted(os.listdir()) == ["data.npz", "out", "page.html"]
    assert os.listdir("out") == ["r"]


def test_a_job_name_with_a_slash(here):
    Path("jobs.toml").write_text(
        '[defaults]\nbackbone = "resnet_v1_demo"\ndata = "demo-target"\n'
        '[[job]]\nname = "../../canary"\n[[job]]\nname = "a/b\\u001b[2J"\nseed = 1\n'
    )
    names = [one.name for one in read_jobs(Path("jobs.toml"))]
    assert names == ["canary", "a_b_2J"]
    result = typed("batch jobs.toml --dry-run")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    "line",
    ["checkpoint inspect 'NAME'", "report 'NAME'", "run --backbone 'NAME'", "predict 'NAME' x.png", "batch 'NAME'",
     "evaluate 'NAME'", "diagnose-bn 'NAME'", "run SMALL --data './NAME'",
     "cache clear 'NAME'", "backbones show 'NAME'", "NAME", "run --NAME"],
)  # fmt: skip
def test_names_that_steer_a_terminal_are_written_out(line, here):
    result = typed(line.replace("NAME", STEERING))
    assert result.exit_code in (1, 2)
    assert "\\x1b" in result.stderr
    assert not set("\x1b\x07\u202e\x9b") & set(result.output)


def test_names_of_layers_and_files_that_steer_a_terminal(here):
    from checkpoints.formats.slim import write_slim

    name = f"conv{STEERING}\nfake line/BatchNorm"
    arrays = {f"{name}/{kind}": np.ones(3, np.float32) for kind in ("gamma", "beta", "moving_mean", "moving_variance")}
    write_slim(here / "steering.ckpt", arrays)
    result = typed("checkpoint inspect steering.ckpt --all")
    assert result.exit_code == 0, result.output
    assert "\\x1b]0;owned" in result.stdout
    assert "\nfake line" not in result.stdout
    assert not set("\x1b\x07\u202e") & set(result.output)


def test_what_is_neutral_is_left_alone():
    text = "a\tb\nΩ „quoted“ – 画像 █▉"
    assert neutral(text) is text
    assert neutral("\x1b[31m\r\udcff\u202e\x9b") == "\\x1b[31m\\r\\udcff\\u202e\\x9b"
