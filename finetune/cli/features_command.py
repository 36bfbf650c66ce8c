"""The command `finetune features`."""

from typing import Any

import click

from finetune.cli import shared_options
from finetune.cli.startup import load_tensorflow


@click.command()
@click.argument("target", metavar="RUN|BACKBONE")
@click.argument("images", type=shared_options.PATH, nargs=-1, metavar="[IMAGE|DIR]...")
@click.option(
    "--layer",
    required=True,
    metavar="NAME",
    help="An end point of slim, such as resnet_v1_50/block3, Mixed_5c or global_pool; or a Keras layer.",
)
@click.option(
    "--out",
    type=shared_options.PATH,
    required=True,
    metavar="FILE.npz",
    help="The file to write. Nothing is overwritten.",
)
@click.option("--data", metavar="NAME|PATH", help="The data, as for 'finetune run'.  [default: the run's own]")
@shared_options.DATA_DIR
@shared_options.SPLIT
@click.option(
    "--pool",
    type=click.Choice(["mean", "max", "none"]),
    default="mean",
    show_default=True,
    help="How to pool over height and width, if the layer gives maps.",
)
@shared_options.CHECKPOINT
@click.option(
    "--image-size",
    type=shared_options.COUNT,
    metavar="PX",
    help="Side in px, for a backbone.  [default: the published one]",
)
@click.option("--preprocess", metavar="NAME", help="Preprocessing, for a backbone.  [default: that of its training]")
@click.option("--batch-size", type=shared_options.COUNT, metavar="N", help="[default: the run's, or 32]")
@shared_options.SKIP_BAD_IMAGES
@shared_options.JSON
@shared_options.QUIET
def features(as_json: bool, quiet: bool, **given: Any) -> None:
    """Write a layer's output for every image: embeddings, with labels and paths.

    RUN is a run directory or a .keras file in one. BACKBONE is anything that 'finetune run --backbone' accepts. Without
    image files, the images are those of --data.
    """
    from finetune.cli.display_training import ConsoleDisplay

    load_tensorflow()
    from finetune.inference.embeddings import EmbeddingOptions, write_features

    with ConsoleDisplay(quiet=quiet or as_json).running() as display:
        written = write_features(
            EmbeddingOptions(**given), progress=display.download, on_scan=display.on_scan, on_batch=display.batch
        )
    if as_json:
        shared_options.emit({"target": given["target"], **written.to_json()})
        return
    click.echo(f"{written.out}: features {list(written.shape)} of {written.layer}")
    for remark in (*written.remarks, *(f"left out as damaged: {reason}" for reason in written.skipped)):
        click.echo(remark, err=True)
