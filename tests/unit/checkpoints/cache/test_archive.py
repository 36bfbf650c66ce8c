import gzip
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints.cache import archive
from checkpoints.errors import CheckpointError


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def pack(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_an_archive_is_unpacked_whole_and_once(tmp_path: Path) -> None:
    content = bytes(3_000_000)
    path = pack(
        tmp_path / "a.tar.gz",
        member(".", type=tarfile.DIRTYPE),
        member("./dir", type=tarfile.DIRTYPE),
        member("./dir/weights", content, mode=0o4777),
        member("deep/er/file", b"x"),
    )
    into = archive.extract(path, tmp_path / "new" / "out")
    assert files(into) == {"dir/weights": content, "deep/er/file": b"x"}
    assert (into / "dir" / "weights").stat().st_mode & 0o7111 == 0
    (into / "mark").write_bytes(b"")
    assert archive.extract(path, into) == into
    assert (into / "mark").exists()
    assert [p.name for p in into.parent.iterdir()] == ["out"]


def test_unpack_keeps_one_copy_for_one_content(tmp_path: Path, cache: Path) -> None:
    first = pack(tmp_path / "a.tar.gz", member("f", b"1"))
    copy = tmp_path / "b.tgz"
    copy.write_bytes(first.read_bytes())
    assert archive.unpack(first) == archive.unpack(copy)
    assert archive.unpack(first).parent == cache / "unpacked"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (member("../evil", b"x"), "a path outside of it"),
        (member("a/../../evil", b"x"), "a path outside of it"),
        (member("/tmp/evil", b"x"), "a path outside of it"),
        (member("C:/evil", b"x"), "a path outside of it"),
        (member("..\\evil", b"x"), "a path outside of it"),
        (member("link", type=tarfile.SYMTYPE, linkname="/etc"), "a link, 'link'"),
        (member("link", type=tarfile.SYMTYPE, linkname="../.."), "a link, 'link'"),
        (member("link", type=tarfile.LNKTYPE, linkname="good"), "a link, 'link'"),
        (member("device", type=tarfile.CHRTYPE), "a device or pipe, 'device'"),
        (member("pipe", type=tarfile.FIFOTYPE), "a device or pipe, 'pipe'"),
        (member("good", b"again"), "holds a member twice"),
        (member("good/below", b"again"), "cannot unpack|holds a member twice"),
        (member("name" * 400_000, b""), "holds a header of"),
    ],
)
def test_an_attack_is_refused_and_leaves_nothing(
    tmp_path: Path, bad: tuple[tarfile.TarInfo, bytes], reason: str
) -> None:
    path = pack(tmp_path / "evil.tar.gz", member("good", b"fine"), bad)
    (tmp_path / "in").mkdir()
    with pytest.raises(CheckpointError, match=reason):
        archive.extract(path, tmp_path / "in" / "out")
    assert list((tmp_path / "in").iterdir()) == []
    assert {p.name for p in tmp_path.iterdir()} == {"evil.tar.gz", "in"}


def test_a_bomb_is_refused_by_what_it_declares_and_by_what_it_holds(tmp_path: Path) -> None:
    declared = pack(tmp_path / "a.tar.gz", member("big", bytes(5_000_000)))
    many = pack(tmp_path / "b.tar.gz", *(member(f"f{i}", bytes(600_000)) for i in range(5)))
    padded = tmp_path / "c.tar.gz"
    padded.write_bytes(gzip.compress(gzip.decompress(pack(padded, member("f", b"x")).read_bytes()) + bytes(5_000_000)))
    for path in (declared, many, padded):
        with pytest.raises(CheckpointError, match="unpacks to more than 2000000 bytes"):
            archive.extract(path, tmp_path / "out", most_bytes=2_000_000)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "is cut off"),
        (lambda data: data[:-4], "is cut off"),
        (lambda data: data[:-8] + bytes(8), "is damaged or no .tar.gz"),
        (lambda data: data[:50_000] + bytes(1000) + data[51_000:], "is damaged or no .tar.gz"),
        (lambda _: b"\x1f\x8b", "is cut off"),
        (lambda _: b"no archive", "is damaged or no .tar.gz"),
        (lambda _: gzip.compress(b"no archive" * 1000), "is damaged or no .tar.gz"),
        (lambda _: gzip.compress(b""), "is damaged or no .tar.gz"),
        (lambda data: gzip.compress(gzip.decompress(data)[:50_000]), "is damaged or no .tar.gz"),
    ],
)
def test_a_damaged_archive_is_said_to_be(tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    content = random.Random(0).randbytes(100_000)
    path = pack(tmp_path / "a.tar.gz", member("f", content))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=reason):
        archive.extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_archive_is_no_archive(tmp_path: Path) -> None:
    assert not archive.is_archive(tmp_path / "none.tar.gz")
    with pytest.raises(CheckpointError, match="No such file"):
        archive.extract(tmp_path / "none.tar.gz", tmp_path / "out")
