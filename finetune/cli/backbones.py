"""`finetune backbones`."""

from pathlib import Path

import click

from finetune.cli import options
from finetune.cli.startup import load_tensorflow


@click.group()
def backbones() -> None:
    """The catalogue: list it, show a row, verify a file of weights."""


@backbones.command("list")
@options.JSON
def list_backbones(as_json: bool) -> None:
    """Every backbone: name, source, ImageNet top-1, parameters, input, and whether its file is cached."""
    from checkpoints import store
    from checkpoints.catalog import CATALOG

    rows = [
        {
            "name": spec.id,
            "top1": spec.top1,
            "parameters": spec.parameters,
            "image_size": spec.image_size,
            "least_size": spec.least_size,
            "bn_decay": spec.bn_decay,
            "cached": str(path) if (path := store.is_cached(spec)) else None,
        }
        for spec in CATALOG
    ]
    if as_json:
        options.emit(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "top-1 %", "params", "px", "least px", "BN decay", "cached"):
        table.add_column(column, justify="left" if column in ("name", "cached") else "right", no_wrap=True)
    for row in rows:
        parameters = f"{row['parameters'] / 1e6:.1f} M" if isinstance(row["parameters"], int) else ""
        table.add_row(
            str(row["name"]),
            "" if row["top1"] is None else str(row["top1"]),
            parameters,
            *(str(row[key]) for key in ("image_size", "least_size", "bn_decay")),
            "yes" if row["cached"] else "",
        )
    Console(highlight=False).print(table)


@backbones.command()
@click.argument("name")
@options.JSON
def show(name: str, as_json: bool) -> None:
    """One row, with the stages and layer names that --freeze and --bn understand."""
    import dataclasses

    load_tensorflow()
    from finetune import backbone as sources
    from finetune import verification

    spec = sources.find(name)

    stages = {
        stage: [layer.display for layer in infos] for stage, infos in verification.layers_with_variables(spec).items()
    }
    row = {
        key: value
        for key, value in dataclasses.asdict(spec).items()
        if value not in (None, (), "", {}) and value is not False
    }
    if as_json:
        options.emit({**row, "id": spec.id, "stages": stages})
        return
    for key, value in row.items():
        click.echo(f"{key:15} {value}")
    click.echo("stages          layers with variables: first ... last")
    for stage, names in stages.items():
        click.echo(f"  {stage:20} {len(names):4d}  {names[0]} ... {names[-1]}")


@backbones.command()
@click.argument("name", metavar="NAME|PATH")
@options.CHECKPOINT
@click.option(
    "--photos", type=options.PATH, metavar="DIR", help="Images named NNN_*.jpg, NNN the ImageNet class 0..999."
)
@options.JSON
@options.QUIET
def verify(name: str, checkpoint: Path | None, photos: Path | None, as_json: bool, quiet: bool) -> None:
    """Prove a file of weights: it fills its network exactly, and computes what the original computes.

    NAME is a backbone, with its published file or --checkpoint; PATH is a file, whose backbone is found. Where tf_slim
    or Keras can build the original, both run on the same images, and a difference over 1e-4 of the outputs' scale
    fails. With --photos, these are the images, and ImageNet top-1 and top-5 are counted.
    """
    load_tensorflow()
    from finetune import verification
    from finetune.cli.display import console_display

    with console_display(quiet=quiet or as_json) as display:
        result = verification.verify(name, checkpoint=checkpoint, photos=photos, display=display)
    if as_json:
        options.emit(result.to_json())
    else:
        click.echo(result.summary())
    result.check()
