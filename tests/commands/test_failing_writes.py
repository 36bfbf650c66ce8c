"""No permission, no room, no such luck: what was there stays, what was begun goes."""

import errno
import fcntl
import os
import resource
import shutil

import pytest

from finetune.backbone import save_stock
from finetune.files import write_text
from finetune.runs.model import open_trained
from tests.support.commands import typed


@pytest.mark.slow
def test_nobody_may_write_there(place, refused, monkeypatch):
    # As root, who runs some of these tests, may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused("run SMALL --run-dir folder/new/run", 1, "no permission to write in", "folder", "--run-dir")
    refused("recalibrate-bn run", 1, "no permission to write", "--out")


@pytest.fixture
def largest_file():
    """Sets how many bytes a file may get, as a full disk does, but for this process only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_no_room_for_the_first_files_leaves_no_directory(refused, largest_file):
    largest_file(10_000)
    refused("run SMALL --quiet --run-dir new/deep/run", 1, "freeze.json would be larger", "repeat the command")


@pytest.mark.slow
def test_no_room_for_the_state_keeps_what_can_be_resumed(tmp_path, monkeypatch, largest_file):
    monkeypatch.chdir(tmp_path)
    largest_file(1_000_000)
    result = typed("run SMALL --quiet --epochs 1 --run-dir run")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: the file run/checkpoints/state.npz would be larger than is allowed: raise the limit ('ulimit -f'), "
        "then continue with: finetune run --resume run\n"
    )
    assert not list(tmp_path.rglob("*.tmp*"))
    assert (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_no_room_for_the_model_is_seen_before_hdf5_writes(tmp_path, finished, monkeypatch):
    model = open_trained(finished[0]).model
    full = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(OSError, match="No space left") as failed:
        save_stock(model, tmp_path / "model.keras")
    assert failed.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full while writing run/bn.json: free some space, then repeat the command"),
        (errno.EROFS, "no permission for run/bn.json: choose another place, or change its owner or mode"),
        (errno.EIO, "Input/output error: run/bn.json"),
    ],
)
def test_what_the_disk_says(monkeypatch, number, words):
    def fails(_):
        raise OSError(number, os.strerror(number), "run/bn.json")

    monkeypatch.setattr("finetune.backbone.find_backbone", fails)
    result = typed("backbones show resnet_v1_50")
    assert (result.exit_code, result.stderr) == (1, f"Error: {words}\n")


@pytest.fixture
def no_locks(monkeypatch):
    """Sets the folder in which the file system refuses every lock, as NFS without a lock daemon does."""

    def below(folder):
        def refusing(real):
            def lock(file, *rest):
                number = file if isinstance(file, int) else file.fileno()
                if os.path.realpath(f"/proc/self/fd/{number}").startswith(str(folder)):
                    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
                return real(file, *rest)

            return lock

        for name in ("flock", "lockf"):
            monkeypatch.setattr(fcntl, name, refusing(getattr(fcntl, name)))

    return below


def test_no_run_begins_where_it_cannot_be_locked(tmp_path, no_locks):
    no_locks(tmp_path)
    result = typed(f"run TINY --quiet --run-dir {tmp_path}/new/run")
    assert result.exit_code == 1
    error = f"Error: No locks available: {tmp_path}/new/run: choose a folder on a file system that locks files"
    assert error in result.stderr
    assert not list(tmp_path.iterdir())


def test_features_are_not_cached_where_the_cache_cannot_be_locked(tmp_path, monkeypatch, no_locks):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    no_locks(tmp_path / "home")
    result = typed(f"run TINY --freeze '*' --bn freeze --epochs 1 --run-dir {tmp_path}/run")
    assert result.exit_code == 0, result.output
    assert f"features are not cached: No locks available: {tmp_path}/home" in result.output.replace("\n", " ")
    result = typed(f"run TINY --freeze '*' --bn freeze --cache-features on --run-dir {tmp_path}/other")
    assert (result.exit_code, "file system that locks files" in result.stderr) == (1, True)


def test_a_write_that_fails_keeps_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    write_text(tmp_path / "x.json", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space") as failed:
        write_text(tmp_path / "x.json", "new")
    assert failed.value.filename == str(tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "old"
