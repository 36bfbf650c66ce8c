"""Weights as files on this machine: those of a catalogue row, and modules of TensorFlow Hub."""

import hashlib
import importlib.resources
import os
from pathlib import Path
from urllib.parse import urlsplit

from checkpoints.cache import archive
from checkpoints.cache.records import cache_dir
from checkpoints.catalog.spec import BackboneSpec
from checkpoints.download.address import Progress, file_name
from checkpoints.errors import CheckpointError

__all__ = ["Progress", "cache_dir", "is_cached", "locate", "locate_module"]

_COMPRESSED = "tf-hub-format=compressed"
"""The query by which a page of TensorFlow Hub answers with the module's .tar.gz."""


def locate(spec: BackboneSpec, *, with_head: bool, progress: Progress | None = None) -> Path:
    """The checkpoint of a catalogue row: bundled, cached, or fetched now; an archive is unpacked in the cache.

    Without the head, the smaller file is used where one is published, unless the whole one is in the cache already.
    The path is one `formats.open_checkpoint` takes. Raises CheckpointError.
    """
    if spec.bundled:
        return _bundled(spec.bundled)
    url = _cached_url(spec, with_head=with_head) or (not with_head and spec.url_no_head) or spec.url
    if spec.unpublished:
        raise CheckpointError(
            f"no weights are published for {spec.id}: 'finetune run --backbone {spec.name}' trains it from random "
            "ones; give a file of your own with --checkpoint PATH"
        )
    if not url:
        raise CheckpointError(
            f"the weights of {spec.id} are not at an address they can be fetched from: give a file with "
            "--checkpoint PATH"
        )
    md5, sha256 = (spec.md5_no_head, spec.sha256_no_head) if url == spec.url_no_head else (spec.md5, spec.sha256)
    from checkpoints.download.resumable import fetch  # here and below: the list of backbones needs no HTTP
    from checkpoints.formats.location import only_checkpoint

    path = fetch(url, md5=md5, sha256=sha256, into=_folder(spec), progress=progress)
    return only_checkpoint(archive.unpack(path)) if archive.is_archive(path) else path


def is_cached(spec: BackboneSpec, *, with_head: bool = False) -> Path | None:
    """The file `locate` would use without the network, as published (perhaps an archive); None where it must fetch."""
    if spec.bundled:
        return _bundled(spec.bundled)
    url = _cached_url(spec, with_head=with_head)
    return _folder(spec) / file_name(url) if url else None


def locate_module(handle: str, *, progress: Progress | None = None) -> Path:
    """The directory of a module's SavedModel: cached, or fetched now and unpacked in the cache.

    handle: the address of a module on tfhub.dev or Kaggle, or of any .tar.gz with a SavedModel at its top. Modules that
    `tensorflow_hub` has fetched into TFHUB_CACHE_DIR are used from there. Raises CheckpointError.
    """
    parts = urlsplit(handle)
    if parts.scheme not in ("http", "https"):
        raise CheckpointError(
            f"cannot fetch the module {handle}: expected an address that begins with https://, or the path of an "
            "unpacked module"
        )
    filled = os.environ.get("TFHUB_CACHE_DIR")
    if filled and (known := Path(filled).expanduser() / hashlib.sha1(handle.encode()).hexdigest()).is_dir():
        return known
    url = parts._replace(query=f"{parts.query}&{_COMPRESSED}" if parts.query else _COMPRESSED).geturl()
    # Its name is a version such as 5, so every handle has a folder of its own.
    into = cache_dir() / "modules" / hashlib.sha256(handle.encode()).hexdigest()[:16]
    from checkpoints.download.resumable import fetch

    instead = "unpack the module anywhere and give hub:PATH"
    return archive.unpack(fetch(url, into=into, progress=progress, instead=instead))


def _cached_url(spec: BackboneSpec, *, with_head: bool) -> str | None:
    urls = (spec.url,) if with_head else (spec.url_no_head, spec.url)
    return next((url for url in urls if url and (_folder(spec) / file_name(url)).is_file()), None)


def _folder(spec: BackboneSpec) -> Path:
    return cache_dir() / "weights" / spec.source


def _bundled(name: str) -> Path:
    return Path(str(importlib.resources.files("checkpoints") / "bundled" / name))
