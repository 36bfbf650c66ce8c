"""`.weights.h5` and `.keras` files: as Keras writes them, and as hostile hands do."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from checkpoints.cache import archive
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from checkpoints.formats.keras_zip import snake_case
from checkpoints.matching.inspection import inspect


def thin() -> keras.Model:
    """Every class whose variables the .keras reader names, a model inside a model, and dropout's random state."""
    inner_in = keras.Input((8, 8, 4))
    x = keras.layers.SeparableConv2D(4, 3, name="separable")(inner_in)
    x = keras.layers.BatchNormalization(scale=False, name="unscaled")(x)
    inner = keras.Model(inner_in, x, name="inner")
    images = keras.Input((10, 10, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=False, name="first")(images)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = inner(x)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = keras.layers.LayerNormalization(name="other")(x)
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.Dense(2, name="out")(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(images, x)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return thin()


@pytest.fixture(scope="module")
def files(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    model.save(folder / "m.keras")
    model.save_weights(folder / "m.weights.h5")
    return folder


@pytest.fixture
def here(files: Path, tmp_path: Path) -> Path:
    for file in files.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path


EXPECTED = {
    "first/kernel": ("first", 0),
    "norm/gamma": ("norm", 0),
    "norm/beta": ("norm", 1),
    "norm/moving_mean": ("norm", 2),
    "norm/moving_variance": ("norm", 3),
    "inner/separable/depthwise_kernel": ("separable", 0),
    "inner/separable/pointwise_kernel": ("separable", 1),
    "inner/separable/bias": ("separable", 2),
    "inner/unscaled/beta": ("unscaled", 0),
    "inner/unscaled/moving_mean": ("unscaled", 1),
    "inner/unscaled/moving_variance": ("unscaled", 2),
    "depthwise/kernel": ("depthwise", 0),
    "depthwise/bias": ("depthwise", 1),
    "other/0": ("other", 0),
    "other/1": ("other", 1),
    "out/kernel": ("out", 0),
    "out/bias": ("out", 1),
}


def find_layer(model: keras.Model, name: str) -> keras.layers.Layer:
    layers = [*model.layers, *model.get_layer("inner").layers]
    return next(layer for layer in layers if layer.name == name)


def test_a_keras_file_has_the_names_of_its_layers_in_their_order(model: keras.Model, files: Path) -> None:
    opened = open_checkpoint(files / "m.keras")
    assert opened.kind == "keras-zip"
    assert list(opened.shapes) == list(EXPECTED)
    for name, (layer, index) in EXPECTED.items():
        np.testing.assert_array_equal(opened.read(name), find_layer(model, layer).weights[index].numpy(), err_msg=name)


def test_a_weights_file_has_keras_keys_and_knows_the_layers(model: keras.Model, files: Path) -> None:
    opened = open_checkpoint(files / "m.weights.h5")
    assert opened.kind == "keras-weights-h5"
    assert len(opened.shapes) == len(EXPECTED)
    assert opened.layers["layers/functional/layers/batch_normalization/vars/2"] == "unscaled"
    for key, layer in opened.layers.items():
        wanted = find_layer(model, layer).weights[int(key.rpartition("/")[2])].numpy()
        np.testing.assert_array_equal(opened.read(key), wanted, err_msg=key)


def test_statistics_are_found_by_key_as_by_name(files: Path) -> None:
    for file in ("m.keras", "m.weights.h5"):
        found = {one.layer.rpartition("/")[2]: one for one in inspect(open_checkpoint(files / file)).batchnorm}
        assert set(found) == {"norm", "unscaled"}, file
        assert all(one.negative and one.finite and not one.initial for one in found.values())


def test_what_a_compiled_model_keeps_for_its_training_is_left_over(tmp_path: Path) -> None:
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2, name="out")])
    small.compile("adam", "mse", metrics=["mae"])
    small.fit(np.zeros((4, 4)), np.zeros((4, 2)), batch_size=2, verbose=0)
    small.save(tmp_path / "m.keras")
    found = inspect(open_checkpoint(tmp_path / "m.keras"))
    assert list(found.variables) == ["out/kernel", "out/bias"]
    assert found.step == 2
    assert set(found.leftovers) == {"optimizer slots"}


def test_the_classes_are_counted_as_keras_counts_them() -> None:
    from keras.src.utils.naming import to_snake_case

    names = [
        "Conv2D",
        "BatchNormalization",
        "ReLU",
        "GlobalAveragePooling2D",
        "DepthwiseConv2D",
        "Functional",
        "Conv1DTranspose",
    ]
    assert [snake_case(name) for name in names] == [to_snake_case(name) for name in names]


def rezip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, content in members.items():
            out.writestr(name, content)
    return path


def content(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def test_a_compressed_keras_file_reads_the_same(here: Path) -> None:
    stored = open_checkpoint(here / "m.keras")
    packed = open_checkpoint(rezip(here / "packed.keras", content(here / "m.keras"), zipfile.ZIP_DEFLATED))
    assert packed.shapes == stored.shapes
    for name in stored.shapes:
        np.testing.assert_array_equal(packed.read(name), stored.read(name))
    assert not list(archive.cache_dir().rglob(".*")), "nothing half-written stays"


def _without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda members: {key: value for key, value in members.items() if key != name}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without("config.json"), r"a zip archive without config\.json, not a \.keras file"),
        (_without("model.weights.h5"), r"a zip archive without model\.weights\.h5"),
        (lambda members: {**members, "../escape": b""}, "a path outside of it"),
        (lambda members: {**members, "/etc/x": b""}, "a path outside of it"),
        (lambda members: {**members, "C:\\x": b""}, "a path outside of it"),
        (lambda members: {**members, "model.weights.json": b"{}"}, "split over several files"),
        (lambda members: {**members, "config.json": b"{"}, "not JSON"),
        (lambda members: {**members, "config.json": b"[" * 100_000}, "not JSON"),
        (lambda members: {**members, "model.weights.h5": b"nothing"}, "damaged or was cut off"),
        (lambda members: {**members, "model.weights.h5": members["model.weights.h5"][:3000]}, "damaged or was cut off"),
    ],
)
def test_a_zip_that_is_no_keras_file_is_one_error(
    here: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], reason: str
) -> None:
    path = rezip(here / "bad.keras", change(content(here / "m.keras")))
    with pytest.raises(CheckpointError, match=reason) as raised:
        open_checkpoint(path)
    assert "\n" not in str(raised.value)


def test_a_member_that_comes_twice(here: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(here / "m.keras", "a") as out:
        out.writestr("config.json", b"{}")
    with pytest.raises(CheckpointError, match=r"holds 'config\.json' twice"):
        open_checkpoint(here / "m.keras")


def test_a_config_without_layers_leaves_the_keys(here: Path) -> None:
    members = content(here / "m.keras")
    for config in (b"{}", b"[]", b'{"config": {"layers": [3, {"class_name": 7, "config": 1}]}}', b"null"):
        opened = open_checkpoint(rezip(here / "odd.keras", {**members, "config.json": config}))
        assert "layers/conv2d/vars/0" in opened.shapes
        assert len(opened.shapes) == len(EXPECTED)


def test_bytes_that_changed_on_the_way_are_found(here: Path) -> None:
    data = bytearray((here / "m.keras").read_bytes())
    at = data.find(b"\x89HDF") + 5000
    data[at] ^= 0xFF
    (here / "m.keras").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged zip archive"):
        open_checkpoint(here / "m.keras")


def test_more_than_the_limit_is_not_unpacked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    with pytest.raises(CheckpointError, match="unpacks to more than 1000 bytes"):
        open_checkpoint(here / "m.keras")


def test_no_mutation_of_a_keras_file_is_more_than_an_error(here: Path) -> None:
    whole = (here / "m.keras").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            data[at] = rng.integers(0, 256)
        (here / "m.keras").write_bytes(data[: rng.integers(len(data) // 2, len(data) + 1)])
        try:
            opened = open_checkpoint(here / "m.keras")
            for name in opened.shapes:
                opened.read(name)
        except CheckpointError:
            pass


KEY = "layers/conv2d/vars/0"


def _replace(make: Callable[[h5py.File], None]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[KEY]
        make(file)

    return change


def _loop(file: h5py.File) -> None:
    file["layers/again"] = file["layers"]


def _link(link: h5py.ExternalLink | h5py.SoftLink) -> Callable[[h5py.File], None]:
    return _replace(lambda file: file.__setitem__(KEY, link))


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (4,))
    file.create_virtual_dataset(KEY, layout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_link(h5py.ExternalLink("/etc/other.h5", "/x")), f"holds a link at {KEY}"),
        (_link(h5py.SoftLink("/layers/dense/vars/0")), f"holds a link at {KEY}"),
        (_link(h5py.SoftLink("/nowhere")), f"holds a link at {KEY}"),
        (_loop, "holds layers/again twice"),
        (_replace(lambda f: f.create_dataset(KEY, (4,), "f4", external=[("/etc/hostname", 0, 16)])), "another file"),
        (_replace(_virtual), "another file"),
        (_replace(lambda f: f.create_dataset(KEY, data="text")), "expected numbers"),
        (_replace(lambda f: f.create_dataset(KEY, data=h5py.Empty("f4"))), "expected numbers"),
        (_replace(lambda f: f.create_dataset(KEY, (1 << 40,), "f4", chunks=(1 << 20,))), "it is not read"),
        (lambda f: f.__delitem__("layers"), "holds no weights of Keras"),
    ],
)
def test_hdf5_that_is_not_to_be_trusted_is_one_error(
    here: Path, change: Callable[[h5py.File], None], reason: str
) -> None:
    with h5py.File(here / "m.weights.h5", "r+") as file:
        change(file)
    with pytest.raises(CheckpointError, match=reason) as raised:
        open_checkpoint(here / "m.weights.h5")
    assert "\n" not in str(raised.value)


def test_a_soft_link_in_the_older_layout_is_not_followed(tmp_path: Path) -> None:
    # Through a second link in the file it could lead into another one.
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = [b"a"]
        file.create_group("a").attrs["weight_names"] = [b"kernel:0"]
        file["out"] = h5py.ExternalLink("/etc/other.h5", "/")
        file["a/kernel:0"] = h5py.SoftLink("/out/x")
    with pytest.raises(CheckpointError, match="holds a link"):
        open_checkpoint(tmp_path / "w.h5")


def test_hdf5_of_somebody_elses_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["images"] = np.zeros((2, 4, 4, 3))
    with pytest.raises(CheckpointError, match="HDF5 file that holds no weights of Keras: expected layers as"):
        open_checkpoint(tmp_path / "data.h5")


def test_weights_in_several_files_are_refused(model: keras.Model, tmp_path: Path) -> None:
    model.save_weights(tmp_path / "m.weights.json", max_shard_size=1e-6)
    with pytest.raises(CheckpointError, match="split over several files: expected one file"):
        open_checkpoint(tmp_path / "m.weights.json")
