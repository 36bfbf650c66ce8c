"""Copies of compressed files in the cache."""

import gzip
import os
import zlib

import pytest

from finetune.data.sources import record_copies
from finetune.errors import FinetuneError

CONTENT = os.urandom(3_000)
PACKED = gzip.compress(CONTENT)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def packed(tmp_path, content, name="a.gz"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@pytest.mark.parametrize(
    "content",
    [gzip.compress(CONTENT), zlib.compress(CONTENT), gzip.compress(CONTENT[:1000]) + gzip.compress(CONTENT[1000:])],
)
def test_a_copy_is_made_once_and_again_if_the_file_changes(content, tmp_path):
    path = packed(tmp_path, content)
    copy, handle = record_copies.unpacked(path)
    assert copy.read_bytes() == CONTENT
    made = copy.stat().st_ino
    os.close(handle)
    again, handle = record_copies.unpacked(path)
    os.close(handle)
    assert (again, again.stat().st_ino) == (copy, made)
    os.utime(path, ns=(1, 1))
    other, handle = record_copies.unpacked(path)
    os.close(handle)
    assert other != copy


def test_copies_are_listed_and_removed_unless_in_use(tmp_path):
    held, handle = record_copies.unpacked(packed(tmp_path, gzip.compress(CONTENT)))
    free, other = record_copies.unpacked(packed(tmp_path, gzip.compress(CONTENT[:100]), "b.gz"))
    os.close(other)
    assert {(one.source, one.size) for one in record_copies.entries()} == {
        (str(tmp_path / "a.gz"), 3_000), (str(tmp_path / "b.gz"), 100)
    }  # fmt: skip
    removed, busy = record_copies.clear()
    assert ([one.path for one in removed], [one.path for one in busy]) == ([free.parent], [held.parent])
    os.close(handle)
    assert record_copies.clear(("not a key",)) == ([], [])
    assert [one.path for one in record_copies.clear((held.parent.name[:8],))[0]] == [held.parent]
    assert record_copies.entries() == []


@pytest.mark.parametrize(
    "content", [gzip.compress(CONTENT)[:-9], gzip.compress(CONTENT)[:-8] + bytes(8), b"\x1f\x8bnothing"]
)
def test_what_is_damaged_leaves_nothing(content, tmp_path, home):
    with pytest.raises(FinetuneError, match=r"a.gz is damaged or cut off .*: download or write it again"):
        record_copies.unpacked(packed(tmp_path, content))
    assert [path.name for path in (home / "records").iterdir() if path.name[0] != "."] == []


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(record_copies, "_BOMB_BYTES", 1 << 20)
    with pytest.raises(FinetuneError, match="that unpack to more than"):
        record_copies.unpacked(packed(tmp_path, gzip.compress(bytes(20 << 20))))


def test_a_cache_that_cannot_be_written(tmp_path, home):
    home.write_text("a file")
    with pytest.raises(FinetuneError, match=r"a.gz is compressed, and its .* copy cannot be written to .*records"):
        record_copies.unpacked(packed(tmp_path, gzip.compress(CONTENT)))
