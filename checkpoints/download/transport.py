"""One HTTP request that fills a partial file, continuing it where that is safe."""

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3

from checkpoints.atomic import replacing
from checkpoints.download.address import Progress

_CONNECT_SECONDS, _SILENCE_SECONDS = 10, 60
_LONGEST_WAIT_SECONDS = 60.0
_BLOCK_BYTES = 1 << 18
_DRIP_SECONDS, _DRIP_BYTES = 60.0, 6_000
"""A server that sends fewer bytes in that time is given up: each byte restarts the timeout for silence."""
_MOST_REDIRECTS = 10


class Refused(Exception):
    """The server will not give the file: asking again is of no use. The message is the reason."""


class Interrupted(Exception):
    """This attempt failed and another may succeed. `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class _Notes:
    """What must still hold for a partial file to be continued: kept as `<part>.json`."""

    url: str
    validator: str | None
    total: int | None


def session() -> requests.Session:
    """A session that gives up on redirect loops soon."""
    made = requests.Session()
    made.max_redirects = _MOST_REDIRECTS
    # Bytes as published: a body compressed on the way would have another length and another hash.
    made.headers.update({"Accept-Encoding": "identity", "User-Agent": "finetune"})
    return made


def mirrored(url: str) -> str:
    """`url` with scheme and host replaced by `$FINETUNE_MIRROR`, where that is set."""
    mirror = os.environ.get("FINETUNE_MIRROR", "").rstrip("/")
    return mirror + urlsplit(url)._replace(scheme="", netloc="").geturl() if mirror else url


def discard(part: Path) -> None:
    """Remove a partial file and its notes."""
    part.unlink(missing_ok=True)
    _notes_path(part).unlink(missing_ok=True)


def receive(client: requests.Session, url: str, part: Path, *, hash_known: bool, progress: Progress | None) -> bool:
    """Fill `part` with the whole body of `url`; return whether earlier bytes were kept.

    A partial file is continued only where the server can say that its file is still the same one (ETag or
    Last-Modified), or where a published hash will tell (`hash_known`). Raises Refused, Interrupted, and OSError
    for the disk.
    """
    start, notes = _kept(part, url, hash_known=hash_known)
    if notes and notes.total == start:
        return True
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and notes and notes.validator:
        headers["If-Range"] = notes.validator
    with _get(client, mirrored(url), headers) as response:
        _check_status(response, part)
        if response.status_code != 206:
            start = 0
        total = _total(response, start, part, notes)
        if total is None and not hash_known and not response.raw.chunked:
            discard(part)
            raise Refused(
                "the server does not say how long it is, and no hash of it is published: a cut would not show"
            )
        blocks = _blocks(response)
        first = next(blocks, b"")
        _refuse_web_page(response, first if start == 0 else b"", part)
        with replacing(_notes_path(part)) as temporary:
            temporary.write_text(json.dumps(asdict(_Notes(url, _validator(response), total))), encoding="utf-8")
        done = start
        with part.open("ab" if start else "wb") as file:
            while first:
                file.write(first)
                done += len(first)
                if progress:
                    progress(done, total)
                first = next(blocks, b"")
    if total is not None and done != total:
        if done > total:
            discard(part)
        raise Interrupted(f"the body ended after {done} of {total} bytes")
    if done == 0:
        discard(part)
        raise Interrupted("the body is empty")
    return start > 0


def _get(client: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    try:
        return client.get(url, headers=headers, stream=True, timeout=(_CONNECT_SECONDS, _SILENCE_SECONDS))
    except requests.TooManyRedirects as error:
        raise Refused(f"it redirects in a loop (more than {_MOST_REDIRECTS} times)") from error
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise Interrupted(_reason(error, url)) from error
    except (requests.RequestException, ValueError) as error:
        raise Refused(f"not an address that can be asked ({error})") from error


def _check_status(response: requests.Response, part: Path) -> None:
    status = response.status_code
    said = f"{status} {response.reason or ''}".strip()
    if status == 416:
        discard(part)
        raise Interrupted(f"the server cannot continue the partial file ({said})")
    if status in (408, 425, 429) or status >= 500:
        raise Interrupted(f"the server answered {said}", wait=_asked_wait(response))
    if status not in (200, 206):
        raise Refused(f"the server answered {said}")
    coding = response.headers.get("Content-Encoding", "identity").lower()
    # A .tar.gz is often labelled as gzip-encoded; its bytes are kept as they come, which is what is wanted.
    if coding != "identity" and not urlsplit(response.url).path.endswith(("gz", "bz2", "xz")):
        raise Refused(f"the server sent it compressed ({coding}) though it was asked not to")


def _total(response: requests.Response, start: int, part: Path, notes: _Notes | None) -> int | None:
    """Bytes of the whole file. Raises Interrupted where a continuation belongs to another file."""
    if response.status_code != 206:
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None
    range_ = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    total = int(range_[2]) if range_ and range_[2] != "*" else None
    moved = not range_ or int(range_[1]) != start
    # A server may heed Range and not If-Range.
    changed = notes and ((notes.validator or None) != _validator(response) or notes.total not in (None, total))
    if moved or changed:
        discard(part)
        raise Interrupted("the file changed at its source while it was fetched")
    return total


def _refuse_web_page(response: requests.Response, beginning: bytes, part: Path) -> None:
    """A login page, a quota notice or a captive portal arrives with status 200."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    text = beginning[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if kind in ("text/html", "application/xhtml+xml") or text.startswith((b"<!doctype html", b"<html")):
        discard(part)
        raise Refused("a web page came in place of the file")


def _blocks(response: requests.Response) -> Iterator[bytes]:
    begun, since = time.monotonic(), 0
    try:
        # read1 gives what has come; read would wait for a whole block, however slowly that comes.
        while block := response.raw.read1(_BLOCK_BYTES, decode_content=False):
            yield block
            since += len(block)
            if (passed := time.monotonic() - begun) > _DRIP_SECONDS:
                if since < _DRIP_BYTES:
                    raise Interrupted(f"the server sent {since} bytes in {passed:.0f} s")
                begun, since = time.monotonic(), 0
    except (urllib3.exceptions.HTTPError, OSError) as error:
        if "Content-Length" in response.headers and not isinstance(error, urllib3.exceptions.TimeoutError):
            return  # `receive` counts what came and says how much is missing.
        raise Interrupted(f"the connection broke ({type(error).__name__})") from error


def _kept(part: Path, url: str, *, hash_known: bool) -> tuple[int, _Notes | None]:
    """(bytes that may be continued, notes about them); (0, None) where the download starts again."""
    try:
        notes = _Notes(**json.loads(_notes_path(part).read_text(encoding="utf-8")))
        size = part.stat().st_size
    except (OSError, ValueError, TypeError, RecursionError):
        return 0, None
    if not isinstance(notes.validator, str | None) or not isinstance(notes.total, int | None):
        return 0, None
    if notes.url != url or not size or not (notes.validator or hash_known):
        return 0, None
    return size, notes


def _validator(response: requests.Response) -> str | None:
    """What names this version of the file. A weak ETag does not promise equal bytes (RFC 9110, 13.1.5)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _notes_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _asked_wait(response: requests.Response) -> float:
    asked = response.headers.get("Retry-After", "")
    try:
        seconds = float(asked) if asked.isdecimal() else parsedate_to_datetime(asked).timestamp() - time.time()
    except (ValueError, OverflowError):
        seconds = 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_SECONDS)


def _reason(error: Exception, url: str) -> str:
    """The operating system's word for a failed connection, which lies some causes deep."""
    host = urlsplit(url).netloc
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy for {host} does not answer"
    if isinstance(error, requests.Timeout):
        return f"no answer from {host} within {_CONNECT_SECONDS} s"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return f"no connection to {host} ({cause.strerror})"
        cause = cause.__cause__ or cause.__context__
    return f"no connection to {host} ({type(error).__name__})"
