import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint

NAME = "mobilenet_v1_0.25_224.ckpt"


def save(prefix: Path, *, version: int = 2, **values: object) -> str:
    """Write a TF1 checkpoint, variable name -> value; `.` in a name stands for `/`."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in values.items():
            tf.compat.v1.Variable(np.asarray(value), name=name.replace(".", "/"), use_resource=False)
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=version)
        return str(saver.save(session, str(prefix), write_meta_graph=False, write_state=False))


def test_v1_and_v2_of_the_same_weights_are_equal(shared: Path) -> None:
    v1, v2 = open_checkpoint(shared / "slim/v1" / NAME), open_checkpoint(shared / "slim/v2" / NAME)
    assert (v1.kind, v2.kind) == ("slim-v1", "slim-v2")
    assert list(v1.shapes.items()) == sorted(v2.shapes.items())
    assert len(v1.shapes) == 138
    assert v1.shapes["MobilenetV1/Conv2d_0/weights"] == (3, 3, 3, 8)
    assert v1.shapes["global_step"] == ()
    for name, shape in v1.shapes.items():
        array = v1.read(name)
        assert array.shape == shape
        np.testing.assert_array_equal(array, v2.read(name))
    assert len({v1.sha256, v2.sha256}) == 2


@pytest.mark.parametrize("suffix", ["", ".index", ".data-00000-of-00001", ".meta"])
def test_any_file_of_a_v2_checkpoint_names_it(tmp_path: Path, suffix: str) -> None:
    prefix = tmp_path / "model.ckpt-7"
    save(prefix, v=1.0)
    (tmp_path / "model.ckpt-7.meta").write_bytes(b"graph")
    assert open_checkpoint(Path(f"{prefix}{suffix}")).path == prefix


def test_the_meta_file_beside_a_v1_checkpoint_names_it(tmp_path: Path) -> None:
    save(tmp_path / "model.ckpt", version=1, v=1.0)
    (tmp_path / "model.ckpt.meta").write_bytes(b"graph")
    assert open_checkpoint(tmp_path / "model.ckpt.meta").kind == "slim-v1"


def test_tensors_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    path = tf.train.Checkpoint(v=tf.Variable([1.0, 2.0], name="net/beta")).save(str(tmp_path / "ckpt"))
    assert open_checkpoint(Path(path)).shapes == {"net/beta": (2,), "save_counter": ()}


def test_a_training_directory_is_read_at_the_step_its_state_names(tmp_path: Path) -> None:
    for step in (9, 10, 200):
        save(tmp_path / f"model.ckpt-{step}", v=float(step))
    assert open_checkpoint(tmp_path).read("v") == 200
    state = tmp_path / "checkpoint"
    state.write_text('model_checkpoint_path: "model.ckpt-10"\nall_model_checkpoint_paths: "model.ckpt-200"\n')
    assert open_checkpoint(tmp_path).read("v") == 10
    state.write_text('model_checkpoint_path: "/other/machine/run/model.ckpt-9"\n')
    assert open_checkpoint(tmp_path).read("v") == 9
    state.write_text('model_checkpoint_path: "C:\\\\run\\\\model.ckpt-9"\n')
    assert open_checkpoint(tmp_path).read("v") == 9
    state.write_text('model_checkpoint_path: "model.ckpt-300"\n')
    with pytest.raises(CheckpointError, match=r"names model\.ckpt-300, which is not there; give one of model"):
        open_checkpoint(tmp_path)


def test_a_directory_with_one_checkpoint_needs_no_step_and_two_are_ambiguous(tmp_path: Path, shared: Path) -> None:
    save(tmp_path / "model.ckpt", v=1.0)
    assert open_checkpoint(tmp_path).kind == "slim-v2"
    shutil.copy(shared / "slim/v1" / NAME, tmp_path)
    with pytest.raises(CheckpointError, match=r"several checkpoints: give one of mobilenet.*, model\.ckpt with"):
        open_checkpoint(tmp_path)


def test_directories_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a directory without a checkpoint: expected a training directory"):
        open_checkpoint(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a SavedModel without variables"):
        open_checkpoint(tmp_path)


def test_an_archive_opens_where_it_holds_one_checkpoint(tmp_path: Path, shared: Path) -> None:
    path = tmp_path / "w.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(shared / "slim/v1" / NAME, f"inner/{NAME}")
    assert open_checkpoint(path).kind == "slim-v1"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(shared / "slim/v1" / NAME, NAME)
        tar.add(shared / "keras/mobilenet_2_5_224_tf.h5", "w.h5")
    with pytest.raises(CheckpointError, match=r"several checkpoints \(mobilenet.*, w\.h5\): expected one"):
        open_checkpoint(path)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(__file__, "readme")
    with pytest.raises(CheckpointError, match="holds no checkpoint: expected one"):
        open_checkpoint(path)


def test_a_file_that_is_missing_of_a_v2_checkpoint_is_named(tmp_path: Path) -> None:
    prefix = tmp_path / "model.ckpt"
    save(prefix, v=1.0)
    data, index = tmp_path / "model.ckpt.data-00000-of-00001", tmp_path / "model.ckpt.index"
    data.rename(tmp_path / "model.ckpt.data-00001-of-00003")
    with pytest.raises(CheckpointError, match=r"data-00000-of-00003, model\.ckpt\.data-00002-of-00003 missing beside"):
        open_checkpoint(prefix)
    (tmp_path / "model.ckpt.data-00001-of-00003").unlink()
    with pytest.raises(CheckpointError, match=r"model\.ckpt\.data-00000-of-00001 missing beside model\.ckpt\.index"):
        open_checkpoint(prefix)
    index.rename(data)
    with pytest.raises(CheckpointError, match=r"model\.ckpt\.index is missing"):
        open_checkpoint(prefix)


def _cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_files_that_were_cut_off_are_said_to_be(tmp_path: Path, shared: Path, share: float) -> None:
    for part in sorted(shared.rglob("mobilenet*")):
        shutil.copy(part, tmp_path)
    _cut(tmp_path / "mobilenet_2_5_224_tf.h5", share)
    _cut(tmp_path / f"{NAME}.index", share)
    (tmp_path / NAME).rename(tmp_path / "v1.ckpt")
    _cut(tmp_path / "v1.ckpt", share)
    for name in ("mobilenet_2_5_224_tf.h5", NAME, "v1.ckpt"):
        with pytest.raises(CheckpointError, match="cut off"):
            open_checkpoint(tmp_path / name)


def test_a_data_shard_that_was_cut_off_is_found_by_its_index(tmp_path: Path, shared: Path) -> None:
    for part in (shared / "slim/v2").iterdir():
        shutil.copy(part, tmp_path)
    data = tmp_path / f"{NAME}.data-00000-of-00001"
    data.chmod(0o644)
    _cut(data, 0.5)
    with pytest.raises(CheckpointError, match="lies beyond the end of its shard"):
        open_checkpoint(tmp_path / NAME)


def test_what_is_no_checkpoint_at_all(tmp_path: Path) -> None:
    (tmp_path / "notes.ckpt").write_text("weights, honestly\n" * 10)
    with pytest.raises(CheckpointError, match=r"notes\.ckpt is not a checkpoint.*expected a TF-slim checkpoint"):
        open_checkpoint(tmp_path / "notes.ckpt")
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(CheckpointError, match=r"damaged zip archive .*expected a \.keras file"):
        open_checkpoint(tmp_path / "model.keras")
    with pytest.raises(CheckpointError, match="no directory"):
        open_checkpoint(tmp_path / "nowhere" / "model.ckpt")


def test_a_missing_checkpoint_gets_the_nearest_name(tmp_path: Path) -> None:
    save(tmp_path / "model.ckpt-100", v=1.0)
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*did you mean .*model\.ckpt-100\?"):
        open_checkpoint(tmp_path / "model.ckpt-10")


def test_a_path_tensorflow_takes_for_a_pattern_is_said(tmp_path: Path) -> None:
    save(tmp_path / "plain", v=1.0)
    odd = tmp_path / "run[1]"
    odd.mkdir()
    for file in tmp_path.glob("plain.*"):
        shutil.copy(file, odd)
    with pytest.raises(CheckpointError, match="for a pattern"):
        open_checkpoint(odd / "plain")


def test_a_checkpoint_without_a_name_is_to_be_given_one(tmp_path: Path) -> None:
    """`save_weights("weights/")` of tf.keras writes `weights/.index`; a path cannot say that."""
    tf.train.Checkpoint(a=tf.Variable([1.0])).write(str(tmp_path / "x"))
    for ending in ("index", "data-00000-of-00001"):
        (tmp_path / f"x.{ending}").rename(tmp_path / f".{ending}")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "."\n')
    with pytest.raises(CheckpointError, match=r"a checkpoint without a name.*rename \.index .* to weights\.index"):
        open_checkpoint(tmp_path)
