"""What a server can do wrong beyond a cut or an error: never a wrong file, never a wait without end, nothing left."""

import email.utils
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoints.download import transport
from checkpoints.download.resumable import fetch
from checkpoints.errors import CheckpointError
from tests.support.misbehaving_server import Server, say, serve
from tests.support.places import ROOT

BODY = bytes(range(256)) * 400
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def get(server: Server, into: Path, **options: Any) -> Path:
    return fetch(f"{server.address}/w.h5", into=into, attempts=3, first_wait=0.01, **options)


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.rglob("*"))


def drip(seconds: float, count: int) -> Any:
    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.send_header("ETag", '"1"')
        handler.end_headers()
        for at in range(count):
            handler.wfile.write(BODY[at : at + 1])
            handler.wfile.flush()
            time.sleep(seconds)

    return answer


def test_a_slow_drip_is_given_up_by_name(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_DRIP_SECONDS", 0.2)
    server.script = [drip(0.02, 60)]
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match=r"cannot fetch .*/w.h5: the server sent \d+ bytes in"):
        get(server, tmp_path)
    assert time.monotonic() - begun < 30
    assert set(names(tmp_path)) == {"w.h5.part", "w.h5.part.json"}


def test_after_a_drip_the_rest_is_fetched(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_DRIP_SECONDS", 0.2)
    server.script = [drip(0.02, 60), serve(BODY)]
    assert get(server, tmp_path).read_bytes() == BODY
    assert server.ranges()[0] is None
    assert str(server.ranges()[1]).startswith("bytes=")
    assert names(tmp_path) == ["w.h5", "w.h5.json"]


def test_what_is_slow_and_comes_is_not_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_DRIP_SECONDS", 0.05)
    monkeypatch.setattr(transport, "_DRIP_BYTES", 10)

    def slowly(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        for at in range(0, len(BODY), 4096):
            handler.wfile.write(BODY[at : at + 4096])
            handler.wfile.flush()
            time.sleep(0.02)

    server.script = [slowly]
    assert get(server, tmp_path).read_bytes() == BODY
    assert len(server.requests) == 1


def silent_about_length(body: bytes) -> Any:
    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_a_body_of_no_said_length_is_taken_by_its_hash_only(server: Server, tmp_path: Path) -> None:
    server.script = [silent_about_length(BODY[:1000])]
    with pytest.raises(CheckpointError, match="does not say how long it is, and no hash of it is published"):
        get(server, tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(CheckpointError, match="its md5 is"):
        get(server, tmp_path, md5=MD5)
    server.script = [silent_about_length(BODY)]
    assert get(server, tmp_path, md5=MD5).read_bytes() == BODY


@pytest.mark.parametrize("whole", [True, False])
def test_a_body_in_chunks_is_whole_with_its_last_chunk(server: Server, tmp_path: Path, whole: bool) -> None:
    def chunks(handler: Any) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for at in range(0, len(BODY), 10_000):
            piece = BODY[at : at + 10_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if whole:
            handler.wfile.write(b"0\r\n\r\n")

    server.script = [chunks]
    if whole:
        assert get(server, tmp_path).read_bytes() == BODY
    else:
        with pytest.raises(CheckpointError, match="the connection broke"):
            get(server, tmp_path)
        assert "w.h5" not in names(tmp_path)


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "//", "http://[::1"])
def test_a_redirect_to_something_else_is_refused(server: Server, tmp_path: Path, place: str) -> None:
    server.script = [say(302, Location=place)]
    with pytest.raises(CheckpointError, match="cannot fetch"):
        get(server, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [("0.5", 0, 0), ("2", 2, 2), ("86400", 60, 60), ("never", 0, 0), ("-3", 0, 0), ("DATE+30", 20, 31),
     ("DATE-30", 0, 0), ("9" * 400, 60, 60)],
)  # fmt: skip
def test_how_long_a_server_asks_to_wait(said: str, least: float, most: float) -> None:
    if said.startswith("DATE"):
        said = email.utils.formatdate(time.time() + float(said[4:]), usegmt=True)

    class Response:
        headers = {"Retry-After": said}  # noqa: RUF012

    response: Any = Response()
    assert least <= transport._asked_wait(response) <= most


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    notes=st.dictionaries(
        st.sampled_from(["url", "validator", "total"]),
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.none(), max_size=2) | st.just('"1"'),
    )
    | st.lists(st.none())
    | st.text(),
    part=st.binary(max_size=50) | st.just(BODY[:100]) | st.just(BODY) | st.just(BODY + b"x"),
    known=st.booleans(),
)
def test_whatever_lies_in_a_partial_download_the_file_is_right(
    notes: Any, part: bytes, known: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place, server = tmp_path_factory.mktemp("part"), Server()
    try:
        server.script = [serve(BODY)]
        if isinstance(notes, dict) and "url" in notes:
            notes["url"] = f"{server.address}/w.h5"
        (place / "w.h5.part").write_bytes(part)
        (place / "w.h5.part.json").write_text(json.dumps(notes))
        hash_ = {"md5": MD5} if known else {}
        # Without a hash, an ETag and bytes that agree with it are all there is to go by.
        honest = known or part in (BODY[:100], BODY) or not isinstance(notes, dict) or notes.get("validator") != '"1"'
        try:
            found = get(server, place, **hash_).read_bytes()
        except CheckpointError:
            assert not (place / "w.h5").exists()
        else:
            assert found == BODY or not honest
            assert names(place) == ["w.h5", "w.h5.json"]
    finally:
        server.close()


@pytest.mark.slow
def test_processes_that_fetch_one_file_fetch_it_once(server: Server, tmp_path: Path) -> None:
    begun = threading.Event()

    def slowly(handler: Any) -> None:
        begun.set()
        time.sleep(1.0)
        serve(BODY)(handler)

    server.script = [slowly]
    code = (
        "import sys; from pathlib import Path; from checkpoints.download.resumable import fetch; "
        f"print(len(fetch('{server.address}/w.h5', md5='{MD5}', into=Path(sys.argv[1])).read_bytes()))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(3)
    ]
    assert [process.communicate()[0].strip() for process in processes] == [str(len(BODY))] * 3
    assert begun.is_set()
    assert len(server.requests) == 1
    assert names(tmp_path) == ["w.h5", "w.h5.json"]
