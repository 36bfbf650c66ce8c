import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from checkpoints.download.resumable import fetch, file_name
from checkpoints.errors import CheckpointError
from tests.support.misbehaving_server import Server, say, serve

BODY = bytes(range(256)) * 4000
OTHER = BODY[::-1]
MD5 = hashlib.md5(BODY).hexdigest()


def get(server: Server, **options: Any) -> Path:
    return fetch(f"{server.address}/dir/weights.h5", attempts=3, first_wait=0.01, **options)


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_a_file_is_fetched_once_and_recorded(server: Server, cache: Path) -> None:
    server.script = [serve(BODY)]
    seen: list[tuple[int, int | None]] = []
    path = get(server, md5=MD5.upper(), progress=lambda done, total: seen.append((done, total)))
    assert path == cache / "files" / "weights.h5"
    assert path.read_bytes() == BODY
    assert get(server, md5=MD5) == path
    assert len(server.requests) == 1
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert json.loads((cache / "files/weights.h5.json").read_text())["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert left(cache) == ["weights.h5", "weights.h5.json"]


@pytest.mark.parametrize("etag", ['"1"', None, 'W/"1"'])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("md5", [MD5, None])
def test_a_cut_body_is_completed(server: Server, etag: str | None, ranges: bool, md5: str | None) -> None:
    server.script = [serve(BODY, etag=etag, ranges=ranges, cut=700_000), serve(BODY, etag=etag, ranges=ranges)]
    assert get(server, md5=md5).read_bytes() == BODY
    # Without a strong validator only a published hash makes it safe to continue.
    continued = bool(md5) or etag == '"1"'
    assert server.ranges()[1] == ("bytes=700000-" if continued else None)


def test_a_later_call_continues_where_an_earlier_one_gave_up(server: Server) -> None:
    server.script = [serve(BODY, cut=100_000)]
    with pytest.raises(CheckpointError, match="ended after 300000 of 1024000 bytes"):
        get(server)
    server.script = [serve(BODY)]
    assert get(server).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_file_that_changed_meanwhile_is_not_spliced(server: Server, heeds_if_range: bool) -> None:
    def changed(handler: Any) -> None:
        if not heeds_if_range:
            del handler.headers["If-Range"]
        serve(OTHER, etag='"2"')(handler)

    server.script = [serve(BODY, cut=5000), changed]
    assert get(server).read_bytes() == OTHER


def test_a_spliced_file_without_validators_is_fetched_anew(server: Server) -> None:
    server.script = [serve(OTHER, etag=None, cut=5000), serve(BODY, etag=None)]
    assert get(server, md5=MD5).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=5000-", None]


def test_a_partial_file_the_server_cannot_continue_is_dropped(server: Server) -> None:
    server.script = [serve(BODY, cut=5000), say(416), serve(BODY)]
    assert get(server).read_bytes() == BODY
    assert server.ranges() == [None, "bytes=5000-", None]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(server: Server, status: int) -> None:
    server.script = [say(status, Retry_After="0"), serve(BODY)]
    assert get(server).read_bytes() == BODY


@pytest.mark.parametrize(
    ("answer", "reason", "requests"),
    [
        (say(404), "the server answered 404 Not Found", 1),
        (say(403), "the server answered 403 Forbidden", 1),
        (say(500), "the server answered 500 Internal Server Error", 3),
        (say(302, Location="/dir/weights.h5"), "it redirects in a loop", 11),
        (serve(b"<html>log in</html>", kind="text/html; charset=utf-8"), "a web page came in place of the file", 1),
        (serve(b"\n<!DOCTYPE html>..."), "a web page came in place of the file", 1),
        (say(200, BODY, Content_Encoding="br"), "compressed", 1),
        (say(200, b""), "the body is empty", 3),
        (serve(OTHER), f"its md5 is {hashlib.md5(OTHER).hexdigest()}, published is {MD5}; nothing was kept", 1),
    ],
)
def test_what_is_refused_is_said_and_not_kept(
    server: Server, cache: Path, answer: Any, reason: str, requests: int
) -> None:
    server.script = [answer]
    with pytest.raises(CheckpointError) as caught:
        get(server, md5=MD5)
    assert reason in str(caught.value)
    assert left(cache) == []
    assert len(server.requests) == requests


def test_a_body_shorter_than_announced_is_not_kept_as_the_file(server: Server, cache: Path) -> None:
    def lies(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY) + 1))
        handler.end_headers()
        handler.wfile.write(BODY)

    server.script = [lies]
    with pytest.raises(CheckpointError, match="ended after 1024000 of 1024001 bytes"):
        get(server)
    assert not (cache / "files" / "weights.h5").exists()


def test_offline_says_what_to_do(cache: Path, server: Server) -> None:
    server.close()
    with pytest.raises(CheckpointError) as caught:
        get(server, instead="give its directory with --data-dir PATH")
    message = str(caught.value)
    assert f"cannot fetch {server.address}/dir/weights.h5: no connection to 127.0.0.1" in message
    assert "Connection refused" in message
    place = cache / "files" / "weights.h5"
    assert message.endswith(f"Put the file at {place}, or give its directory with --data-dir PATH.")


def test_a_host_without_address_is_offline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(CheckpointError, match=r"no connection to nowhere\.invalid"):
        fetch("http://nowhere.invalid/a.h5", attempts=1)


@pytest.mark.parametrize("url", ["ftp://host/a.h5", "no address/a.h5", "http://[half/a.h5", "http://host/%00"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(CheckpointError):
        fetch(url, attempts=1)


def test_the_mirror_stands_in_for_the_host(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_MIRROR", f"{server.address}/mirror/")
    server.script = [serve(BODY)]
    assert fetch("https://host.example/dir/weights.h5?v=1").read_bytes() == BODY
    assert server.requests[0][0] == "/mirror/dir/weights.h5?v=1"


def test_the_first_fetch_is_trusted_and_a_later_change_is_not(server: Server, cache: Path) -> None:
    server.script = [serve(BODY)]
    path = get(server)
    path.write_bytes(OTHER)
    with pytest.raises(CheckpointError, match="was recorded when it was fetched: it was changed"):
        get(server)
    path.unlink()
    server.script = [serve(OTHER)]
    with pytest.raises(CheckpointError, match="changed since it was first fetched") as caught:
        get(server)
    record = cache / "files" / "weights.h5.json"
    assert str(record) in str(caught.value)
    assert not path.exists()
    record.unlink()
    assert get(server).read_bytes() == OTHER


def test_a_touched_file_is_hashed_again_and_accepted(server: Server) -> None:
    server.script = [serve(BODY)]
    path = get(server)
    path.touch()
    assert get(server) == path
    assert json.loads(path.with_name("weights.h5.json").read_text())["mtime_ns"] == path.stat().st_mtime_ns


def test_a_file_the_user_put_there_is_checked(server: Server, cache: Path) -> None:
    path = cache / "files" / "weights.h5"
    path.parent.mkdir(parents=True)
    path.write_bytes(OTHER)
    with pytest.raises(CheckpointError, match=r"but .* is published for .* Delete it to fetch it again"):
        get(server, md5=MD5)
    assert path.exists()
    path.write_bytes(BODY)
    assert get(server, md5=MD5) == path
    assert get(server, sha256=hashlib.sha256(BODY).hexdigest()) == path
    assert server.requests == []


def test_a_name_fetched_from_elsewhere_is_not_mixed_up(server: Server) -> None:
    server.script = [serve(BODY)]
    get(server)
    with pytest.raises(CheckpointError, match="was fetched from"):
        fetch("http://elsewhere.example/weights.h5")


def test_two_callers_fetch_once(server: Server) -> None:
    server.script = [serve(BODY)]
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(get(server, md5=MD5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4
    assert len(server.requests) == 1


def test_a_cache_that_cannot_be_written_is_said(server: Server, tmp_path: Path) -> None:
    server.script = [serve(BODY)]
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Make room or rights there, or set FINETUNE_HOME"):
        get(server, into=tmp_path / "file")


@pytest.mark.parametrize(("url", "name"), [("http://h/a/b.h5?x=1#f", "b.h5"), ("http://h/a%20b.h5", "a b.h5")])
def test_the_name_in_the_cache(url: str, name: str) -> None:
    assert file_name(url) == name


@pytest.mark.parametrize("url", ["http://host/", "http://host", "", "http://host/a/..", "http://host/%2e%2e"])
def test_an_address_without_a_file_is_refused(url: str) -> None:
    with pytest.raises(CheckpointError, match="does not name a file"):
        fetch(url)
