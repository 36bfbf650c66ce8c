import dataclasses
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
