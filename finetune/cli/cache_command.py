"""`finetune cache`."""

import time

import click

from finetune.cli import shared_options
from finetune.cli.tables import print_table


@click.group()
def cache() -> None:
    """Features of frozen layers that runs keep for each other: list them, remove them.

    They lie in FINETUNE_HOME, beside what was fetched; docs/cached-features.md tells when there are any.
    """


@cache.command("list")
@shared_options.JSON
def list_cache(as_json: bool) -> None:
    """Every entry, the most recently used first: what its features are of, how many, how large."""
    from finetune.text import size_in_words
    from finetune.training.feature_cache import feature_store

    entries = feature_store.entries()[::-1]
    if as_json:
        rows = [
            {
                "key": one.key,
                **one.about,
                "images": one.images,
                "bytes": one.size,
                "used": round(one.used, 3),
                "in_use": one.busy,
            }
            for one in entries
        ]
        shared_options.emit(
            {"place": str(feature_store.cache_folder()), "budget": feature_store.default_budget(), "entries": rows}
        )
        return
    if entries:
        print_table(
            ("key", "backbone", "up to", "px", "statistics", "numbers", "precision", "images", "size", "last used"),
            [
                (
                    one.key[:12],
                    str(one.about.get("backbone", "")),
                    str(one.about.get("cut", "")),
                    str(one.about.get("image_size", "")),
                    str(one.about.get("statistics", "")),
                    "x".join(map(str, one.about["shape"])),
                    str(one.about["dtype"]),
                    str(one.images),
                    size_in_words(one.size),
                    "now" if one.busy else time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used)),
                )
                for one in entries
            ],
            numbers=("px", "images", "size"),
        )
    total = sum(one.size for one in entries)
    click.echo(
        f"{len(entries)} entries, {size_in_words(total)} of {size_in_words(feature_store.default_budget())}, "
        f"in {feature_store.cache_folder()}"
    )


@cache.command()
@click.argument("keys", nargs=-1, metavar="[KEY...]")
@shared_options.JSON
def clear(keys: tuple[str, ...], as_json: bool) -> None:
    """Remove entries by the beginning of their KEY, or all; never one that a run is using."""
    from finetune.text import size_in_words
    from finetune.training.feature_cache import feature_store

    removed, held = feature_store.clear(keys)
    freed = sum(one.size for one in removed)
    if as_json:
        shared_options.emit(
            {"removed": [one.key for one in removed], "in_use": [one.key for one in held], "bytes": freed}
        )
        return
    click.echo(f"removed {len(removed)} entries, {size_in_words(freed)}")
    for one in held:
        click.echo(f"{one.key[:12]} is in use by a run, and stays")
