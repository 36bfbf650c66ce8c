"""The command `finetune backbones`."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from finetune.cli.shared_options import (
    CHECKPOINT,
    JSON,
    PATH,
    SKIP_BAD_IMAGES,
    is_given,
    output_options,
    printed_json,
    progress,
    recipe_options,
)
from finetune.cli.startup import load_tensorflow
from finetune.cli.terminal import Columns, print_table, tabulated
from finetune.text import size_in_words


@click.group()
def backbones() -> None:
    """List and show the catalogue of backbones; fetch their weights, or verify a file of weights."""


@backbones.command("list")
@click.option("--markdown", is_flag=True, help="Print docs/backbones.md, with references and addresses.")
@JSON
def list_backbones(markdown: bool) -> None:
    """List every backbone: name, source, ImageNet top-1, parameters, input size, and where its file is cached."""
    from checkpoints import fetching, listing

    if markdown and is_given("json"):
        raise click.UsageError("--markdown and --json contradict each other: give one of them.")
    if markdown:
        click.echo(listing.markdown(), nl=False)
        return
    rows = listing.as_json()
    if printed_json(rows):
        return
    columns: Columns = {
        "name": lambda row: row["name"],
        "source": lambda row: row["source"],
        "top-1 %": lambda row: "" if row["top1"] is None else row["top1"],
        "params": lambda row: listing.millions(row["parameters"]),
        "px": lambda row: row["image_size"],
        "least px": lambda row: row["least_size"],
        "BN decay": lambda row: "none" if row["bn_decay"] is None else row["bn_decay"],
        "cached": lambda row: fetching.place(row["cached"]),
    }
    print_table(*tabulated(rows, columns), numbers=("top-1 %", "params", "px", "least px", "BN decay"))


@backbones.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="Every backbone that has published weights, about 3 GB.")
@click.option(
    "--with-head/--no-head",
    default=True,
    help="Fetch the whole file, which works with and without its head, or the smaller one without a head if there is "
    "one.  [default: --with-head]",
)
@output_options
def fetch(names: tuple[str, ...], everything: bool, with_head: bool) -> None:
    """Fetch published weights into the cache: NAME is a backbone or a pattern such as 'slim/resnet*'.

    Files in the cache are checked and kept, partial files are continued. After a failure the other files are still
    fetched; repeat the command. FINETUNE_HOME is the folder of the cache, FINETUNE_MIRROR replaces every host.
    """
    from checkpoints import fetching
    from finetune.cli.console import downloads

    if not names and not everything:
        raise click.UsageError("nothing to fetch: give the NAME of a backbone, a pattern such as 'slim/*', or --all.")
    wanted = fetching.select(names, everything=everything)
    with downloads(quiet=is_given("quiet") or is_given("json"), files=len(wanted)) as progress_of:
        fetched = list(fetching.fetch_all(wanted, with_head=with_head, progress=progress_of))
    if not printed_json({"backbones": [one.to_json() for one in fetched]}):
        columns: Columns = {
            "name": lambda one: one.name,
            "": lambda one: one.status,
            "size": lambda one: "" if one.size is None else size_in_words(one.size),
            "file": lambda one: "" if one.status == "failed" else fetching.place(one.path) or f"({one.error})",
        }
        print_table(*tabulated(fetched, columns), numbers=("size",))
    fetching.check(fetched)


@backbones.command()
@click.argument("name")
@JSON
def show(name: str) -> None:
    """Show one backbone, with the stages and layer names that --freeze and --bn accept."""
    load_tensorflow()
    from finetune.backbone import find_backbone
    from finetune.data.preprocessing import known_name
    from finetune.inference import verification

    spec = find_backbone(name)
    spec = dataclasses.replace(spec, preprocessing=known_name(spec.preprocessing))
    layers = verification.layers_with_variables(spec)
    stages = {stage: [layer.display for layer in infos] for stage, infos in layers.items()}
    fields = dataclasses.asdict(spec)
    row = {key: fields[key] for key in fields if fields[key] is not False and fields[key] not in (None, (), "", {})}
    if printed_json({**row, "id": spec.id, "stages": stages}):
        return
    for key, value in row.items():
        click.echo(f"{key:15} {value}")
    click.echo("stages          layers with variables: first ... last")
    for stage, names in stages.items():
        click.echo(f"  {stage:20} {len(names):4d}  {names[0]} ... {names[-1]}")


@backbones.command()
@click.argument("name", metavar="NAME|PATH")
@CHECKPOINT
@click.option(
    "--photos", type=PATH, metavar="DIR", help="Images named NNN_*.jpg, where NNN is the ImageNet class 0..999."
)
@SKIP_BAD_IMAGES
@recipe_options
@output_options
def verify(name: str, checkpoint: Path | None, photos: Path | None, **recipe: Any) -> None:
    """Verify a file of weights: it fills its network exactly, and computes what the original computes.

    NAME is a backbone, with its published file or --checkpoint. PATH is a file; its backbone is detected. If tf_slim
    or Keras can build the original, both run on the same images, and a difference over 1e-4 of the outputs' scale
    fails. With --photos, these are the images, and ImageNet top-1 and top-5 are counted.
    """
    load_tensorflow()
    from finetune.inference import verification

    with progress() as display:
        result = verification.verify(
            name,
            checkpoint=checkpoint,
            photos=photos,
            recipe={option: value for option, value in recipe.items() if value not in (None, False)},
            say=display.say,
            progress=display.download,
        )
    if not printed_json(result.to_json()):
        click.echo(result.summary())
    result.check()
