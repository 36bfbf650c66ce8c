"""Whole files of every kind that is read, small, each with the reader that reads it: what mutations start from."""

import gzip
import io
import json
import pickle
import random
import shutil
import signal
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf
import tf_keras
from click.testing import CliRunner
from scipy.io import savemat

from checkpoints.formats.slim import write_slim
from finetune.cli import main
from finetune.cli.display_training import ConsoleDisplay
from finetune.training.feature_cache import feature_store
from tests.soak import mutations
from tests.support import hub_modules, keras_2_files, tf1_forms, written_cifar
from tests.support.written_photos import encoded, photo


@dataclass(frozen=True)
class Seed:
    """A tree of whole files. opened: what of it the reader is given, "" for the tree itself. victims: the files that
    are changed. sealed: how a victim is changed behind its checksums, by the end of its name."""

    name: str
    reader: str
    make: Callable[[Path], None]
    victims: tuple[str, ...]
    opened: str = ""
    sealed: tuple[tuple[str, mutations.Mutate], ...] = ()
    weight: int = 1

    def mutated(self, tree: Path, rng: random.Random, others: list[bytes]) -> str:
        """Change one victim in a copy of the tree; what was done."""
        paths = sorted(path for pattern in self.victims for path in tree.glob(pattern) if path.is_file())
        path = rng.choice(paths)
        content = path.read_bytes()
        seal = next((mutate for end, mutate in self.sealed if path.name.endswith(end)), None)
        if seal is not None and rng.random() < 0.6:
            name = seal.__name__
            try:
                changed = seal(rng, content, others)
            except (ValueError, IndexError, OSError, EOFError, zlib.error):
                name, changed = mutations.plain(rng, content, others)
        else:
            name, changed = mutations.plain(rng, content, others)
        path.write_bytes(changed)
        return f"{path.relative_to(tree)}: {name}"


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"resnet_v1_demo/conv1/weights": (3, 3, 3, 4), "global_step": ()}
    shapes |= {f"resnet_v1_demo/conv1/BatchNorm/{name}": (4,) for name in ("beta", "gamma", "moving_mean")}
    arrays = {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in shapes.items()}
    arrays["global_step"] = np.asarray(7, np.int64)
    return arrays | {"resnet_v1_demo/conv1/BatchNorm/moving_variance": np.ones(4, np.float32)}


def small_model() -> keras.Model:
    images = keras.Input((16, 16, 3), name="images")
    x = keras.layers.Conv2D(4, 3, name="conv1")(images)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.ReLU(name="relu")(x))
    return keras.Model(images, keras.layers.Dense(10, name="head")(x), name="small")


def _slim_v1(tree: Path) -> None:
    tf1_forms.save(tree, tf1_forms.network, run=False, version=tf1_forms.v1.train.SaverDef.V1)


def _graph(tree: Path) -> None:
    tf1_forms.save(tree, tf1_forms.network, run=False)


def _training_graph(tree: Path) -> None:
    tf1_forms.save(tree, tf1_forms.training_graph, run=False)


def _training_directory(tree: Path) -> None:
    write_slim(tree / "model.ckpt-7", _arrays())
    (tree / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt-7"\nall_model_checkpoint_paths: "model.ckpt-7"\n'
    )


def _objects(tree: Path) -> None:
    tf.train.Checkpoint(model=small_model()).write(str(tree / "objects"))


def _archive(tree: Path) -> None:
    inner = tree / "inner"
    inner.mkdir()
    write_slim(inner / "model.ckpt", _arrays())
    with tarfile.open(tree / "model.tar.gz", "w:gz") as tar:
        for path in sorted(inner.iterdir()):
            tar.add(path, path.name)
    shutil.rmtree(inner)


def _keras(name: str) -> Callable[[Path], None]:
    def make(tree: Path) -> None:
        model = small_model()
        model.save_weights(tree / name) if name.endswith(".weights.h5") else model.save(tree / name)

    return make


def _keras_2(name: str) -> Callable[[Path], None]:
    def make(tree: Path) -> None:
        keras_2_files.written(keras_2_files.model(keras_2_files.whole), tree / name)

    return make


def _exported(tree: Path) -> None:
    small_model().export(str(tree / "model"), verbose=False)


def _keras_2_saved(tree: Path) -> None:
    images = tf_keras.Input((16, 16, 3))
    x = tf_keras.layers.BatchNormalization()(tf_keras.layers.Conv2D(4, 3)(tf_keras.layers.RandomFlip()(images)))
    x = tf_keras.layers.GlobalAveragePooling2D()(x)
    tf_keras.Model(images, tf_keras.layers.Dense(10)(x)).save(tree / "model", save_format="tf")


def _cifar_archive(tree: Path) -> None:
    folder = written_cifar.write_pickled(tree / "x", training=(1,))
    written_cifar.write_archive(tree, folder, "cifar-10-python.tar.gz")
    shutil.rmtree(tree / "x")


def _cifar100(binary: bool) -> Callable[[Path], None]:
    def make(tree: Path) -> None:
        folder = tree / ("cifar-100-binary" if binary else "cifar-100-python")
        folder.mkdir()
        names = {"fine": [f"f{n}" for n in range(100)], "coarse": [f"c{n}" for n in range(20)]}
        for split in ("train", "test"):
            pixels, _ = written_cifar.batch(1, 100)
            fine = np.arange(100)
            if binary:
                labels = np.stack([fine // 5, fine], 1).astype(np.uint8)
                (folder / f"{split}.bin").write_bytes(np.concatenate([labels, pixels], 1).tobytes())
            else:
                content = {b"data": pixels, b"fine_labels": fine.tolist(), b"coarse_labels": (fine // 5).tolist()}
                (folder / split).write_bytes(pickle.dumps(content, 2))
        for kind, of in names.items():
            if binary:
                (folder / f"{kind}_label_names.txt").write_text("\n".join(of))
        if not binary:
            meta = {f"{kind}_label_names".encode(): [name.encode() for name in of] for kind, of in names.items()}
            (folder / "meta").write_bytes(pickle.dumps(meta, 2))

    return make


def _npz(save: Callable[..., None]) -> Callable[[Path], None]:
    def make(tree: Path) -> None:
        rng = np.random.default_rng(0)
        arrays = {f"x_{split}": rng.integers(0, 256, (12, 8, 8, 3), np.uint8) for split in ("train", "test")}
        labels = {f"y_{split}": np.arange(12) % 3 for split in ("train", "test")}
        save(tree / "data.npz", **arrays, **labels, class_names=np.array(["a", "b", "c"]))

    return make


def _odd_npz(tree: Path) -> None:
    """MedMNIST's keys, channels first, floats, labels as one-hot rows and as Python objects."""
    rng, names = np.random.default_rng(0), np.array(["a", "b", "c"], object)
    images = rng.random((12, 3, 8, 8), np.float32)
    np.savez(tree / "train.npz", train_images=images, train_labels=names[np.arange(12) % 3])
    np.savez(tree / "test.npz", x=images[:6], y=names[np.arange(6) % 3])


def _npy(tree: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        np.save(tree / f"x_{split}.npy", rng.integers(0, 4096, (count, 64), np.uint16))
        np.save(tree / f"y_{split}.npy", np.eye(3)[np.arange(count) % 3])


def _hdf5(tree: Path) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(tree / "data.h5", "w") as file:
        for split, count in (("train", 12), ("test", 6)):
            images = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
            file.create_dataset(f"{split}/images", data=images, compression="gzip", chunks=(2, 8, 8, 3))
            file[f"{split}/labels"] = np.arange(count) % 3
        file["list_classes"] = np.array([b"a", b"b", b"c"])


def _matlab(tree: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 3, 12), np.uint8)
    savemat(tree / "data.mat", {"X": images, "y": np.arange(12)[:, None] % 3 + 1}, do_compression=True)


def _pickled(tree: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    signs = {"features": images, "labels": np.arange(12) % 3, "classes": ["a", "b", "c"]}
    (tree / "data.p").write_bytes(pickle.dumps(signs))


def _lists(tree: Path) -> None:
    """Lists of paths alone, whose folders are the classes, and images deep below them."""
    for split in ("train", "test"):
        for number in range(4):
            path = tree / "deep" / "images" / "ab"[number % 2] / f"{split}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(photo(number % 2, 20, 16, number), "png"))
        rows = (f"deep/images/{'ab'[number % 2]}/{split}{number}\n" for number in range(4))
        (tree / f"{split}.txt").write_text("".join(rows))


def _annotated(tree: Path) -> None:
    """Tiny ImageNet: class folders for training, and a table of the validation images."""
    for kind in ("n01", "n02"):
        (tree / "train" / kind).mkdir(parents=True)
        for number in range(3):
            (tree / "train" / kind / f"{number}.png").write_bytes(encoded(photo(number % 2, 20, 16, number), "png"))
    (tree / "val" / "images").mkdir(parents=True)
    for number in range(4):
        (tree / "val" / "images" / f"v{number}.png").write_bytes(encoded(photo(number % 2, 20, 16, number), "png"))
    rows = (f"v{number}.png\tn0{1 + number % 2}\t0\t62\n" for number in range(4))
    (tree / "val" / "val_annotations.txt").write_text("".join(rows))


def _idx(tree: Path) -> None:
    for split in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
        labels = (np.arange(20) % 10).astype(np.uint8)
        header = bytes((0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 28, 0, 0, 0, 28))
        (tree / f"{split}-images-idx3-ubyte.gz").write_bytes(compressed(header + images.tobytes()))
        (tree / f"{split}-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 20)) + labels.tobytes())


def _other_records(tree: Path) -> None:
    """Compressed, with other keys, raw pixels and labels as floats."""
    for split in ("train", "test"):
        with tf.io.TFRecordWriter(str(tree / f"{split}.tfrec.gz"), "GZIP") as writer:
            for number in range(4):
                features = {
                    "image_raw": tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[photo(0, 8, 6, number).tobytes()])
                    ),
                    "label": tf.train.Feature(float_list=tf.train.FloatList(value=[number % 2])),
                    "height": tf.train.Feature(int64_list=tf.train.Int64List(value=[6])),
                    "width": tf.train.Feature(int64_list=tf.train.Int64List(value=[8])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def _records(tree: Path) -> None:
    for split in ("train", "validation"):
        with tf.io.TFRecordWriter(str(tree / f"small_{split}_00000-of-00001.tfrecord")) as writer:
            for number in range(4):
                kind = ("png", "jpeg", "raw")[number % 3]
                image = photo(number % 2, 16, 12, number)
                content = image.tobytes() if kind == "raw" else encoded(image, kind)
                features = {
                    "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
                    "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[kind.encode()])),
                    "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 2])),
                    "image/height": tf.train.Feature(int64_list=tf.train.Int64List(value=[12])),
                    "image/width": tf.train.Feature(int64_list=tf.train.Int64List(value=[16])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    (tree / "labels.txt").write_text("0:red\n1:green\n")


def _photos(tree: Path) -> None:
    for label, name in enumerate(("a", "b")):
        (tree / name).mkdir()
        for number in range(3):
            (tree / name / f"{number}.png").write_bytes(encoded(photo(label, 20, 16, number), "png"))


def _tables(tree: Path) -> None:
    """A table with a column for each class in each split's folder."""
    for split in ("train", "test"):
        (tree / split).mkdir()
        for number in range(4):
            (tree / split / f"{number}.png").write_bytes(encoded(photo(number % 2, 20, 16, number), "png"))
        rows = "".join(f"/content/{split}/{number}.png,{number % 2},{1 - number % 2}\n" for number in range(4))
        (tree / split / "_classes.csv").write_text(f"filename,red,green\n{rows}")


def _pixels(tree: Path) -> None:
    cells = np.random.default_rng(0).integers(0, 256, (12, 100), np.uint8)
    rows = [",".join(map(str, [number % 3, *row])) for number, row in enumerate(cells.tolist())]
    (tree / "digits.csv").write_text("\n".join(["label," + ",".join(f"pixel{one}" for one in range(100)), *rows]))


def _parquet(tree: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    for split in ("train", "test"):
        images = [{"bytes": encoded(photo(number % 2, 16, 12, number), "png"), "path": "x"} for number in range(6)]
        table = pyarrow.table({"image": images, "label": [number % 2 for number in range(6)]})
        features = {"label": {"names": ["red", "green"], "_type": "ClassLabel"}}
        about = {"huggingface": json.dumps({"info": {"features": features}})}
        parquet.write_table(table.replace_schema_metadata(about), tree / f"{split}-00000-of-00001.parquet")


def _image(kind: str, mode: str = "RGB", **options: object) -> Callable[[Path], None]:
    def make(tree: Path) -> None:
        image = photo(1, 40, 30, 3).convert(mode)
        content = io.BytesIO()
        image.save(content, kind, **options)
        (tree / "image").write_bytes(content.getvalue())

    return make


_JOBS = """[defaults]
data = "demo-target"
epochs = 1
[matrix]
backbone = ["resnet_v1_demo"]
freeze = [[], ["*"]]
bn-decay = [0.9, 0.95]
exclude = [{ freeze = ["*"], bn-decay = 0.9 }]
[[job]]
name = "from scratch"
backbone = "resnet_v1_demo"
from-scratch = true
"""


def _jobs(tree: Path) -> None:
    (tree / "jobs.toml").write_text(_JOBS)


_RUN = (
    "run --backbone resnet_v1_demo --data demo-target --examples 60 --epochs 2 --image-size 16 --batch-size 20 --quiet"
)


def _run(tree: Path) -> None:
    result = CliRunner().invoke(main, [*_RUN.split(), "--run-dir", str(tree / "run")])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["diagnose-bn", str(tree / "run"), "--quiet", "--images", "40"])
    assert result.exit_code in (0, 3, 4), result.output


def _interrupted(tree: Path) -> None:
    seen = ConsoleDisplay.step

    def step(self: ConsoleDisplay, **values: float) -> None:
        seen(self, **values)
        if values["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    ConsoleDisplay.step = step  # type: ignore[method-assign, assignment]
    try:
        result = CliRunner().invoke(main, [*_RUN.split(), "--run-dir", str(tree / "run")])
    finally:
        ConsoleDisplay.step = seen  # type: ignore[method-assign]
    assert result.exit_code == 130, result.output


def _config(tree: Path) -> None:
    settings = {"format_version": 1, "backbone": "resnet_v1_demo", "data": "demo-target", "epochs": 2}
    settings |= {"freeze": ["block1/*"], "bn": ["*=freeze"], "learning_rate": 0.01, "batch_size": 20, "seed": 3}
    (tree / "config.json").write_text(json.dumps(settings, indent=1))


def _features(tree: Path) -> None:
    home = tree / "home"
    with_home = tree / "home/features"
    with_home.mkdir(parents=True)
    place = feature_store.cache_folder
    feature_store.cache_folder = lambda: with_home  # type: ignore[assignment]
    try:
        ids = np.array([b"a" * 16, b"b" * 16], "S16")
        about = {"shape": [3], "dtype": "float32", "model": "small", "data": "demo"}
        with feature_store.opened("key", about, ids, budget=2**20) as entry:
            entry.append(ids, np.ones((2, 3), np.float32))
    finally:
        feature_store.cache_folder = place
    assert (home / "features/key/about.json").is_file()


_TABLE = ((".index", mutations.sealed_table), ("ckpt-7", mutations.sealed_table))
_GZIP, _ZIP = (("gz", mutations.in_gzip),), ((".keras", mutations.in_zip), (".npz", mutations.in_zip))
_RUN_JSON = ("config", "result", "data", "environment", "load", "freeze", "bn")

SEEDS = (
    Seed("slim-v1", "checkpoint", _slim_v1, ("model.ckpt-7",), "model.ckpt-7", _TABLE, 2),
    Seed("slim-v2", "checkpoint", lambda tree: write_slim(tree / "model.ckpt", _arrays()), ("model.ckpt.*",),
         "model.ckpt", _TABLE, 3),
    Seed("training-directory", "checkpoint", _training_directory, ("checkpoint", "*.index"), "", _TABLE),
    Seed("objects", "checkpoint", _objects, ("objects.*",), "objects", _TABLE, 2),
    Seed("h5", "checkpoint", _keras("m.h5"), ("m.h5",), "m.h5", weight=3),
    Seed("weights-h5", "checkpoint", _keras("m.weights.h5"), ("m.weights.h5",), "m.weights.h5", weight=3),
    Seed("keras", "checkpoint", _keras("m.keras"), ("m.keras",), "m.keras", _ZIP, 2),
    Seed("saved-model", "checkpoint", lambda tree: hub_modules.write(tree / "m"), ("m/variables/*",), "m", _TABLE),
    Seed("tar-gz", "checkpoint", _archive, ("model.tar.gz",), "model.tar.gz", _GZIP, 2),
    Seed("keras-model", "model", _keras("m.keras"), ("m.keras",), "m.keras", _ZIP, 2),
    Seed("h5-model", "model", _keras("m.h5"), ("m.h5",), "m.h5", weight=2),
    Seed("keras-2-model", "model", _keras_2("m.keras"), ("m.keras",), "m.keras", _ZIP, 2),
    Seed("keras-2-h5", "model", _keras_2("m.h5"), ("m.h5",), "m.h5", weight=2),
    Seed("module", "module", lambda tree: hub_modules.write(tree / "m"), ("m/saved_model.pb", "m/variables/*.index"),
         "m", _TABLE, 2),
    Seed("exported", "exported", _exported, ("model/saved_model.pb",), "model", weight=2),
    Seed("keras-2-saved-model", "model", _keras_2_saved, ("model/keras_metadata.pb", "model/variables/*"), "model",
         _TABLE, 2),
    Seed("keras-2-graph", "exported", _keras_2_saved, ("model/saved_model.pb",), "model"),
    Seed("meta-graph", "graph", _graph, ("*.meta",), weight=3),
    Seed("meta-graph-training", "graph", _training_graph, ("*.meta",), weight=2),
    Seed("cifar-pickles", "cifar10", lambda tree: written_cifar.write_pickled(tree, training=(1,)) and None,
         ("*/*",), weight=2),
    Seed("cifar100-pickles", "cifar100", _cifar100(False), ("*/*",)),
    Seed("cifar-binary", "cifar10", lambda tree: written_cifar.write_binary(tree, training=(1,)) and None, ("*/*",)),
    Seed("cifar100-binary", "cifar100", _cifar100(True), ("*/*",)),
    Seed("cifar-tar-gz", "cifar10", _cifar_archive, ("*.tar.gz",), "", _GZIP),
    Seed("npz", "data", _npz(np.savez), ("data.npz",), "data.npz", _ZIP, 2),
    Seed("npz-compressed", "data", _npz(np.savez_compressed), ("data.npz",), "data.npz", _ZIP),
    Seed("npz-odd", "data", _odd_npz, ("*.npz",), "", _ZIP, 2),
    Seed("npy", "data", _npy, ("*.npy",)),
    Seed("hdf5", "data", _hdf5, ("data.h5",), "data.h5", weight=2),
    Seed("matlab", "data", _matlab, ("data.mat",), "data.mat"),
    Seed("pickled", "data", _pickled, ("data.p",), "data.p", weight=2),
    Seed("lists", "data", _lists, ("*.txt",), "train.txt"),
    Seed("annotated", "data", _annotated, ("val/*.txt",)),
    Seed("mnist", "mnist", _idx, ("*",), "", _GZIP),
    Seed("tfrecords-packed", "data", _other_records, ("*",), "", _GZIP, 2),
    Seed("tfrecords", "data", _records, ("*",), "", ((".tfrecord", mutations.in_records),), 2),
    Seed("tables", "data", _tables, ("*/*.csv",)),
    Seed("pixels", "data", _pixels, ("digits.csv",), "digits.csv"),
    Seed("parquet", "data", _parquet, ("*.parquet",), weight=2),
    Seed("photo-folder", "data", _photos, ("*/*",), "", ((".png", mutations.in_png),)),
    *(Seed(f"image-{kind.lower()}", "image", _image(kind, mode), ("image",), "image", sealed)
      for kind, mode, sealed in (
          ("JPEG", "RGB", ()), ("PNG", "RGBA", (("image", mutations.in_png),)), ("GIF", "P", ()), ("WEBP", "RGB", ()),
          ("BMP", "RGB", ()), ("TIFF", "CMYK", ()), ("PPM", "RGB", ()), ("JPEG2000", "RGB", ()), ("AVIF", "RGB", ()))),
    Seed("image-tiff-deflate", "image", _image("TIFF", "RGB", compression="tiff_deflate"), ("image",), "image"),
    Seed("image-tiff-jpeg", "image", _image("TIFF", "RGB", compression="jpeg"), ("image",), "image"),
    Seed("jobs-toml", "jobs", _jobs, ("jobs.toml",), "jobs.toml", weight=2),
    Seed("config-json", "config", _config, ("config.json",), "config.json", weight=2),
    Seed("run-report", "report", _run, (*(f"run/{name}.json" for name in _RUN_JSON), "run/*.jsonl", "run/pred*.npz"),
         "run", _ZIP, 4),
    Seed("run-statistics", "snapshot", _run, ("run/bn_source.npz", "run/metrics.jsonl"), "run", _ZIP),
    Seed("run-model", "trained", _run, ("run/model.keras", "run/config.json"), "run", _ZIP),
    Seed("run-state", "state", _interrupted, ("run/checkpoints/state.npz",), "run", _ZIP),
    Seed("features", "features", _features, ("home/features/key/*",), "home"),
)  # fmt: skip


def make_trees(place: Path, seeds: tuple[Seed, ...] = SEEDS) -> dict[str, Path]:
    """The tree of every seed, made once; two seeds that are made alike share it."""
    made: dict[object, Path] = {}
    trees = {}
    for seed in seeds:
        if seed.make not in made:
            tree = place / seed.name
            tree.mkdir(parents=True)
            seed.make(tree)
            made[seed.make] = tree
        trees[seed.name] = made[seed.make]
    return trees


def compressed(content: bytes) -> bytes:
    """As a .gz."""
    return gzip.compress(content, 1, mtime=0)
