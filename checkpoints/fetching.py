"""Several published files at once: chosen by name or pattern, fetched one after another, even where one fails."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from checkpoints import store
from checkpoints.catalog.lookup import CATALOG, find_row
from checkpoints.catalog.spec import BackboneSpec
from checkpoints.download.address import Progress
from checkpoints.errors import CheckpointError, UnknownBackbone

Status = Literal["fetched", "cached", "bundled", "skipped", "failed"]


@dataclass(frozen=True)
class Fetched:
    """What became of one backbone.

    path: the file as published (perhaps an archive), or None. size: its bytes.
    error: why there is no file: for `failed` what to do, for `skipped` that nothing is published.
    """

    name: str
    status: Status
    path: str | None
    size: int | None
    error: str | None

    def to_json(self) -> dict[str, Any]:
        """For `backbones fetch --json`."""
        return asdict(self)


@dataclass(frozen=True)
class Wanted:
    """A row to fetch. `named`: the user gave its name, not a pattern."""

    spec: BackboneSpec
    named: bool


def select(names: Sequence[str], *, everything: bool = False) -> list[Wanted]:
    """The rows that names and patterns (`slim/resnet*`, `*v2`) mean, each once, in the order given.

    A pattern is compared with `source/name` and the bare name. Raises UnknownBackbone for a name or a pattern that
    matches nothing, before anything is fetched.
    """
    found: dict[str, Wanted] = {spec.id: Wanted(spec, False) for spec in CATALOG} if everything else {}
    for name in names:
        if not set(name) & set("*?["):
            spec = find_row(name)
            found[spec.id] = Wanted(spec, True)
            continue
        rows = [spec for spec in CATALOG if fnmatchcase(spec.id, name) or fnmatchcase(spec.name, name)]
        if not rows:
            raise UnknownBackbone(
                f"no backbone fits the pattern {name!r}: 'finetune backbones list' lists all {len(CATALOG)}"
            )
        for spec in rows:
            found.setdefault(spec.id, Wanted(spec, False))
    return list(found.values())


def fetch_all(
    wanted: Sequence[Wanted], *, with_head: bool, progress: Callable[[BackboneSpec], Progress | None]
) -> Iterator[Fetched]:
    """Fetch, verify and unpack one after another, as each is asked for; a failure does not end it.

    with_head: the whole file, which serves with and without its head; otherwise the smaller one where one is
    published. `progress` gives the callback for the bytes of a row. A partial file is continued, as `fetch` does.
    """
    for one in wanted:
        yield _fetched(one, with_head=with_head, progress=progress(one.spec))


def _fetched(wanted: Wanted, *, with_head: bool, progress: Progress | None) -> Fetched:
    spec = wanted.spec
    if spec.bundled:
        return Fetched(spec.id, "bundled", str(store.locate(spec, with_head=with_head)), None, None)
    if spec.url is None and not wanted.named:
        return Fetched(spec.id, "skipped", None, None, "no weights are published at an address that can be fetched")
    had = store.is_cached(spec, with_head=with_head)
    try:
        store.locate(spec, with_head=with_head, progress=progress)
        path = store.is_cached(spec, with_head=with_head)
        if path is None:  # removed in between
            raise CheckpointError(f"the file of {spec.id} is gone from {store.cache_dir()}: fetch it again")
        return Fetched(spec.id, "cached" if had == path else "fetched", str(path), path.stat().st_size, None)
    except CheckpointError as error:
        return Fetched(spec.id, "failed", None, None, str(error))
    except OSError as error:
        return Fetched(spec.id, "failed", None, None, f"{error.filename or store.cache_dir()}: {error.strerror}")


def check(fetched: Sequence[Fetched]) -> None:
    """Raise CheckpointError where one has failed, with every reason, or where there was nothing to fetch at all."""
    failed = [one for one in fetched if one.status == "failed"]
    if failed:
        reasons = "".join(f"\n  {one.name}: {one.error}" for one in failed)
        raise CheckpointError(f"{len(failed)} of {len(fetched)} could not be fetched:{reasons}")
    if all(one.status == "skipped" for one in fetched):
        raise CheckpointError(
            f"nothing was fetched: no weights of {', '.join(one.name for one in fetched)} are published at an address "
            "that can be fetched; give a file of your own with --checkpoint PATH where they are used"
        )


def place(path: Path | str | None) -> str:
    """A path as a person types it: `~` for the home directory."""
    if path is None:
        return ""
    try:
        return str(Path("~") / Path(path).relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(path)
