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
    copy, handle = record_copies.copied(path)
    made = (copy / record_copies.DATA).stat().st_ino
    assert (copy / record_copies.DATA).read_bytes() == CONTENT
    os.close(handle)
    again, handle = record_copies.copied(path)
    os.close(handle)
    assert (again, (again / record_copies.DATA).stat().st_ino) == (copy, made)
    os.utime(path, ns=(1, 1))
    other, handle = record_copies.copied(path)
    os.close(handle)
    assert other != copy


def test_copies_are_listed_and_removed_unless_in_use(tmp_path):
    held, handle = record_copies.copied(packed(tmp_path, gzip.compress(CONTENT)))
    free, other = record_copies.copied(packed(tmp_path, gzip.compress(CONTENT[:100]), "b.gz"))
    os.close(other)
    assert {(one.source, one.size) for one in record_copies.entries()} == {
        (str(tmp_path / "a.gz"), 3_000), (str(tmp_path / "b.gz"), 100)
    }  # fmt: skip
    removed, busy = record_copies.clear()
    assert ([one.path for one in removed], [one.path for one in busy]) == ([free], [held])
    os.close(handle)
    assert record_copies.clear(("not a key",)) == ([], [])
    assert [one.path for one in record_copies.clear((held.name[:8],))[0]] == [held]
    assert record_copies.entries() == []


def test_the_least_recently_used_copies_make_room_unless_they_are_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(record_copies, "budget", lambda: 2_500)
    made = []
    for number in range(3):
        made.append(record_copies.copied(packed(tmp_path, gzip.compress(CONTENT[:1000]), f"{number}.gz")))
        os.utime(made[-1][0] / "about.json", (number, number))
    assert len(record_copies.entries()) == 3  # all are in use
    for _, handle in made[1:]:
        os.close(handle)
    newest, handle = record_copies.copied(packed(tmp_path, gzip.compress(CONTENT[1000:2000]), "new.gz"))
    os.close(handle)
    assert [one.path for one in record_copies.entries()] == [made[0][0], newest]
    os.close(made[0][1])
    large, handle = record_copies.copied(packed(tmp_path, gzip.compress(CONTENT), "large.gz"))
    assert [one.path for one in record_copies.entries()] == [large]  # more than the budget, but its file is needed
    os.close(handle)


def test_the_budget_is_a_quarter_of_the_disk_without_the_copies(tmp_path, monkeypatch):
    disk = type("Usage", (), {"free": 9_000})
    monkeypatch.setattr(record_copies.shutil, "disk_usage", lambda path: disk)
    assert record_copies.budget() == 2_250
    os.close(record_copies.copied(packed(tmp_path, PACKED))[1])
    assert record_copies.budget() == 3_000


@pytest.mark.parametrize(
    "content", [gzip.compress(CONTENT)[:-9], gzip.compress(CONTENT)[:-8] + bytes(8), b"\x1f\x8bnothing"]
)
def test_what_is_damaged_leaves_nothing(content, tmp_path, home):
    with pytest.raises(FinetuneError, match=r"a.gz is damaged or cut off .*: download or write it again"):
        record_copies.copied(packed(tmp_path, content))
    assert [path.name for path in (home / "records").iterdir() if path.name[0] != "."] == []


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(record_copies, "_BOMB_BYTES", 1 << 20)
    with pytest.raises(FinetuneError, match="that unpack to more than"):
        record_copies.copied(packed(tmp_path, gzip.compress(bytes(20 << 20))))


def test_a_cache_that_cannot_be_written(tmp_path, home):
    home.write_text("a file")
    with pytest.raises(
        FinetuneError, match=r"a.gz has no random access, and its copy .* cannot be written to .*records"
    ):
        record_copies.copied(packed(tmp_path, gzip.compress(CONTENT)))
