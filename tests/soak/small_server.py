"""A server on loopback with a file and an archive, ETags and ranges."""

import contextlib
import functools
import hashlib
import http.server
import io
import random
import tarfile
import threading
from collections.abc import Iterator

BODY = random.Random(0).randbytes(3_000_000)


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends `/NAME` with an ETag and ranges."""

    def __init__(self, files: dict[str, bytes], *given: object) -> None:
        self.files = files
        super().__init__(*given)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        body = self.files[self.path[1:]]
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        with contextlib.suppress(OSError):  # the client was killed
            self.wfile.write(body[start:])

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The address, of `weights.bin` (`BODY`) and `net.tar.gz` (the same in three files)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for number in range(3):
            one = tarfile.TarInfo(f"net/part{number}")
            one.size = len(BODY) // 3
            archive.addfile(one, io.BytesIO(BODY[number * one.size :]))
    files = {"weights.bin": BODY, "net.tar.gz": packed.getvalue()}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, files))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
