"""The command `finetune cache`."""

import time
from typing import Any

import click

from finetune.cli.shared_options import JSON, printed_json
from finetune.cli.terminal import Columns, print_table, tabulated


@click.group()
def cache() -> None:
    """List or remove cached features, and copies of TFRecords and Parquet files.

    Features are outputs of frozen layers that runs share: docs/cached-features.md explains when runs write them. Copies
    give compressed TFRecords and images in Parquet files random access. Both lie in FINETUNE_HOME, beside the fetched
    weights.
    """


@cache.command("list")
@JSON
def list_cache() -> None:
    """List every entry, the most recently used first, with its backbone, images and size."""
    from finetune.data.sources import record_copies
    from finetune.text import size_in_words
    from finetune.training.feature_cache import feature_store

    copies = record_copies.entries()[::-1]
    entries, folder, budget = (
        feature_store.entries()[::-1],
        feature_store.cache_folder(),
        feature_store.default_budget(),
    )
    rows = [
        {"key": one.key, **one.about, "images": one.images, "bytes": one.size}
        | {"used": round(one.used, 3), "in_use": one.busy}
        for one in entries
    ]
    records = [{"key": one.key, "source": one.source, "bytes": one.size, "used": round(one.used, 3)} for one in copies]
    if printed_json({"place": str(folder), "budget": budget, "entries": rows, "records": records}):
        return
    columns: Columns = {
        "key": lambda one: one.key[:12],
        "backbone": lambda one: one.about.get("backbone", ""),
        "up to": lambda one: one.about.get("cut", ""),
        "px": lambda one: one.about.get("image_size", ""),
        "statistics": lambda one: one.about.get("statistics", ""),
        "numbers": lambda one: "x".join(map(str, one.about["shape"])),
        "precision": lambda one: one.about["dtype"],
        "images": lambda one: one.images,
        "size": lambda one: size_in_words(one.size),
        "last used": lambda one: "now" if one.busy else time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used)),
    }
    if entries:
        print_table(*tabulated(entries, columns), numbers=("px", "images", "size"))
    total = sum(one.size for one in entries)
    click.echo(f"{len(entries)} entries, {size_in_words(total)} of {size_in_words(budget)}, in {folder}")
    for one in copies:
        click.echo(f"{one.key[:12]} {size_in_words(one.size)}: copy of {one.source}")
    if copies:
        total, most = sum(one.size for one in copies), record_copies.budget()
        click.echo(f"{len(copies)} copies, {size_in_words(total)} of {size_in_words(most)}")


@cache.command()
@click.argument("keys", nargs=-1, metavar="[KEY...]")
@JSON
def clear(keys: tuple[str, ...]) -> None:
    """Remove entries by the beginning of their KEY, or all. Entries that a run is using stay."""
    from finetune.data.sources import record_copies
    from finetune.text import size_in_words
    from finetune.training.feature_cache import feature_store

    of_copies = tuple(key for key in keys if key and any(one.key.startswith(key) for one in record_copies.entries()))
    of_features = tuple(key for key in keys if key not in of_copies)
    copies, busy = record_copies.clear(of_copies) if of_copies or not keys else ([], [])
    features, in_use = feature_store.clear(of_features) if of_features or not keys else ([], [])
    removed: list[Any] = [*features, *copies]
    held: list[Any] = [*in_use, *busy]
    freed = sum(one.size for one in removed)
    if printed_json({"removed": [one.key for one in removed], "in_use": [one.key for one in held], "bytes": freed}):
        return
    click.echo(f"removed {len(removed)} entries, {size_in_words(freed)}")
    for one in held:
        click.echo(f"{one.key[:12]} is in use by a run and stays")
