import dataclasses
import errno
import fcntl
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import checkpoints
from checkpoints import store
from checkpoints.catalog.lookup import find_row
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from tests.support.misbehaving_server import Server, say, serve
from tests.support.places import ROOT

KERAS = dataclasses.replace(find_row("keras/mobilenet_0.25"), md5=None)
SLIM = find_row("slim/mobilenet_v1_0.25")


@pytest.fixture(autouse=True)
def mirror(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_MIRROR", server.address)


def test_the_cache_is_finetune_home_or_the_users_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.cache_dir() == cache
    monkeypatch.delenv("FINETUNE_HOME")
    assert store.cache_dir().name == "finetune"
    assert not cache.exists()


def test_the_smaller_file_is_fetched_unless_the_whole_one_is_there(server: Server) -> None:
    server.script = [serve(b"weights")]
    assert store.is_cached(KERAS) is None
    whole = store.locate(KERAS, with_head=True)
    assert whole.name == "mobilenet_2_5_224_tf.h5"
    assert store.locate(KERAS, with_head=False) == whole
    assert store.is_cached(KERAS) == store.is_cached(KERAS, with_head=True) == whole
    whole.unlink()
    small = store.locate(KERAS, with_head=False)
    assert small.name == "mobilenet_2_5_224_tf_no_top.h5"
    assert store.is_cached(KERAS) == small
    assert store.is_cached(KERAS, with_head=True) is None
    assert [path.rpartition("/")[2] for path, _ in server.requests] == [whole.name, small.name]


def test_each_file_is_held_to_its_own_md5(server: Server) -> None:
    spec = find_row("keras/resnet50")
    server.script = [serve(b"not it")]
    with pytest.raises(CheckpointError, match=f"published is {spec.md5}"):
        store.locate(spec, with_head=True)
    with pytest.raises(CheckpointError, match=f"published is {spec.md5_no_head}"):
        store.locate(spec, with_head=False)


def test_a_published_slim_archive_opens(server: Server, shared: Path, tmp_path: Path) -> None:
    archive = tmp_path / "made.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted((shared / "slim" / "v2").iterdir()):
            tar.add(path, f"./{path.name}")
        tar.add(__file__, "./mobilenet_v1_0.25_224_info.txt")
    server.script = [serve(archive.read_bytes())]
    path = store.locate(SLIM, with_head=True)
    assert path.name == "mobilenet_v1_0.25_224.ckpt"
    checkpoint = open_checkpoint(path)
    assert checkpoint.kind == "slim-v2"
    server.script = [say(500)]
    assert store.locate(SLIM, with_head=False) == path
    assert store.is_cached(SLIM) == store.cache_dir() / "weights" / "slim" / "mobilenet_v1_0.25_224.tgz"


def module_archive(folder: Path, names: tuple[str, ...]) -> bytes:
    """A .tar.gz with these files, whose content is their own name."""
    folder.mkdir()
    with tarfile.open(folder / "made.tar.gz", "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return (folder / "made.tar.gz").read_bytes()


HANDLE = "https://tfhub.dev/google/imagenet/resnet_v1_50/feature_vector/5"


def test_a_module_of_tensorflow_hub_is_continued_unpacked_and_kept(server: Server, tmp_path: Path) -> None:
    body = module_archive(tmp_path / "made", ("./saved_model.pb", "./variables/variables.index"))
    server.script = [serve(body, cut=len(body) // 2), serve(body)]
    path = store.locate_module(HANDLE)
    assert (path / "saved_model.pb").read_text() == "./saved_model.pb"
    assert (path / "variables" / "variables.index").is_file()
    address = "/google/imagenet/resnet_v1_50/feature_vector/5?tf-hub-format=compressed"
    assert [place for place, _ in server.requests] == [address, address]
    assert server.ranges() == [None, f"bytes={len(body) // 2}-"]
    server.script = [say(500)]
    assert store.locate_module(HANDLE) == path
    other = module_archive(tmp_path / "other", ("saved_model.pb",))
    server.script = [serve(other)]
    newer = store.locate_module(HANDLE.replace("resnet_v1_50", "resnet_v2_50"))  # the same last part, the version
    assert (newer / "saved_model.pb").read_text() == "saved_model.pb"
    server.script = [serve(other)]
    store.locate_module("https://example.org/m/1?key=2")
    assert server.requests[-1][0] == "/m/1?key=2&tf-hub-format=compressed"


@pytest.mark.parametrize("name", ["../saved_model.pb", "/saved_model.pb"])
def test_a_module_that_leads_outside_is_not_unpacked(server: Server, tmp_path: Path, name: str) -> None:
    server.script = [serve(module_archive(tmp_path / "made", ("saved_model.pb", name)))]
    with pytest.raises(CheckpointError, match="a path outside of it: it is not unpacked"):
        store.locate_module(HANDLE)
    assert not list(tmp_path.rglob("saved_model.pb"))


def test_a_module_that_cannot_be_fetched_says_what_to_do(server: Server) -> None:
    server.script = [say(404)]
    with pytest.raises(CheckpointError, match=r"404 Not Found\. Put the file at .*/modules/\w+/5, or .* hub:PATH"):
        store.locate_module(HANDLE)
    with pytest.raises(CheckpointError, match="cannot fetch the module gs://a/b: expected an address that begins with"):
        store.locate_module("gs://a/b")


def test_a_cache_of_tensorflow_hub_is_read(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The folder that tensorflow_hub 0.16.1 makes for this handle: the sha1 of its text.
    known = tmp_path / "aeb09487e1b0889b640934b910b2b0b4b721a018"
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    server.script = [say(404)]
    with pytest.raises(CheckpointError, match="404"):
        store.locate_module(HANDLE)
    known.mkdir()
    assert store.locate_module(HANDLE) == known


def test_a_cache_without_file_locks_is_one_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuses)
    server.script = [serve(b"weights")]
    with pytest.raises(CheckpointError, match=r"cannot keep .*: No locks available\..* FINETUNE_HOME"):
        store.locate(KERAS, with_head=True)
    assert server.requests == []


def test_a_refused_file_says_where_to_put_it(server: Server) -> None:
    server.script = [say(404)]
    with pytest.raises(CheckpointError) as caught:
        store.locate(SLIM, with_head=True)
    place = store.cache_dir() / "weights" / "slim" / "mobilenet_v1_0.25_224.tgz"
    assert "404 Not Found" in str(caught.value)
    assert str(caught.value).endswith(f"Put the file at {place}, or give it with --checkpoint PATH.")


def test_bundled_weights_need_no_network(server: Server) -> None:
    spec = dataclasses.replace(SLIM, source="bundled", url=None, bundled="small/model.ckpt")
    expected = Path(checkpoints.__file__).parent / "bundled" / "small" / "model.ckpt"
    assert store.locate(spec, with_head=True) == store.is_cached(spec) == expected
    assert server.requests == []


def test_a_row_without_weights_is_said(server: Server) -> None:
    with pytest.raises(CheckpointError, match=r"slim/mobilenet_v1_0\.25 are not .* --checkpoint PATH"):
        store.locate(dataclasses.replace(SLIM, url=None), with_head=True)


def test_nothing_here_imports_tensorflow_before_a_file_is_opened() -> None:
    code = "import sys, checkpoints.store, checkpoints.matching.transfer; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
