"""The command `finetune data`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.completion_command import complete_backbone
from finetune.cli.shared_options import (
    CHECKPOINT,
    COUNT,
    IMAGE_SIZE,
    PATH,
    output_options,
    printed_json,
    progress,
    setting_option,
)
from finetune.cli.startup import load_tensorflow
from finetune.cli.terminal import print_table
from finetune.config import CHANGES, READING
from finetune.data.check.kinds import CERTAIN, WORDS
from finetune.errors import WrongUse

if TYPE_CHECKING:
    from finetune.config import RunConfig

_PLACE = click.argument("data", metavar="NAME|PATH")
_AUGMENTING_SETTINGS = (
    *("examples", "few_shot", "validation", "skip_bad_images", "image_size", "augment", "crop_padding", *CHANGES),
    *("batch_size", "preset"),
)


def _options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of settings of `finetune run` to a command, with the argument NAME|PATH before them."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = setting_option(name)(command)
        return _PLACE(command)

    return add


@click.group()
def data() -> None:
    """Look at data before it is trained on."""


@data.command()
@_options(*READING)
@click.option(
    "--backbone",
    metavar="NAME",
    shell_complete=complete_backbone,
    help="Whose features are used for suspect labels and drift; none: leave both out.  [default: the most accurate "
    "small row of the catalogue whose weights are on this machine]",
)
@CHECKPOINT
@click.option("--image-size", type=IMAGE_SIZE, metavar="PX|HxW", help="Of the features.  [default: that of a run]")
@click.option(
    "--images",
    type=COUNT,
    default=20_000,
    metavar="N",
    help="Compute features of N images, evenly drawn. Everything else is done with all.  [default: 20000]",
)
@click.option(
    "--suspects",
    type=click.FloatRange(0, 1),
    default=0.03,
    metavar="F",
    help="At most this share of the labels is called suspect.  [default: 0.03]",
)
@click.option(
    "--out", type=PATH, metavar="FOLDER", help="Write index.html, check.json and exclude.txt. Must not exist."
)
@click.option(
    "--leave-out",
    type=click.Choice(list(WORDS)),
    multiple=True,
    default=CERTAIN,
    help=f"What exclude.txt leaves out; the rest is in it as comments. Repeatable.  [default: {', '.join(CERTAIN)}]",
)
@click.option(
    "--pictures", type=click.IntRange(0, 500), default=24, metavar="N", help="Of each finding.  [default: 24]"
)
@output_options
def check(out: Path | None, pictures: int, leave_out: tuple[Any, ...], **given: Any) -> None:
    """Find damaged, duplicate, blurred and odd images, suspect labels, and drift between training and test images.

    NAME|PATH is what 'finetune run --data' takes.

    \b
    finetune data check flowers/ --out flowers-check
    finetune run --data flowers/ --exclude flowers-check/exclude.txt ...
    """
    from finetune.reporting.heat_maps import check_folder

    if out is not None:
        check_folder(out, "--out")  # before TensorFlow is imported
    if given["backbone"] != "none":
        load_tensorflow()
    from finetune.training.data_report import CheckOptions, check_data

    named = {name: given.pop(name) for name in ("backbone", "checkpoint", "image_size", "images", "suspects")}
    options = CheckOptions(**named, leave_out=leave_out, pictures=pictures if out is not None else 0)
    with progress() as display:
        config = _config(given, backbone="", skip_bad_images=True)
        found = check_data(config, options, out=out, display=display)
    if not printed_json(found.value):
        _show(found.value, out)


def _config(given: dict[str, Any], **more: Any) -> "RunConfig":
    """The settings of a run that are among the options `given`."""
    from finetune.config import SETTINGS, from_mapping
    from finetune.data.load_data import absolute

    chosen = {name: value for name, value in given.items() if name in SETTINGS and value not in (None, ())}
    chosen |= {name: os.path.abspath(value) for name, value in chosen.items() if isinstance(value, Path)}
    return from_mapping({}, where="the options", options={**chosen, "data": absolute(given["data"]), **more})


def _show(report: dict[str, Any], out: Path | None) -> None:
    from finetune.reporting.data_page import sentences

    counts = ", ".join(f"{count:,} {split}" for split, count in report["images"].items())
    click.echo(f"{report['data']['source']}: {counts} images, {len(report['class_names'])} classes")
    for remark in report["data"]["remarks"]:
        click.echo(remark, err=True)
    rows = []
    for row in report["findings"]:
        shared = "; ".join(f"{pair}: {count}" for pair, count in row["across_splits"].items())
        examples = ", ".join(one["image"] for one in row["listed"][:2])
        rows.append((row["kind"], f"{row['images']:,}", shared, examples))
    print_table(("finding", "images", "across splits", "such as"), rows, numbers=("images",))
    imbalance = report["imbalance"]
    click.echo(
        f"classes: {imbalance['smallest']['images']:,} ({imbalance['smallest']['class']}) to "
        f"{imbalance['largest']['images']:,} ({imbalance['largest']['class']}) training images"
    )
    for sentence in sentences(report):
        click.echo(sentence)
    if out is not None:
        click.echo(f"page           {out / 'index.html'}")
        click.echo(f"leave out      {report['left_out']:,} images: --exclude {out / 'exclude.txt'}")


@data.command()
@_options(*READING, *_AUGMENTING_SETTINGS)
@click.option(
    "--backbone",
    metavar="NAME",
    default="resnet_v1_50",
    shell_complete=complete_backbone,
    help="As for 'finetune run': it decides the size of the images, if --image-size does not.  [default: resnet_v1_50]",
)
@click.option("--images", type=click.IntRange(1, 500), default=32, metavar="N", help="[default: 32]")
@click.option("--out", type=PATH, required=True, metavar="FILE", help="A .png or .html. Nothing is overwritten.")
@output_options
def preview(out: Path, images: int, **given: Any) -> None:
    """Write a sheet of augmented training images: the first ones of a run with these options, as the run gets them.

    \b
    finetune data preview flowers/ --rand-augment --out sheet.png
    finetune data preview cifar10 --cutmix 1 --out sheet.html
    """
    if out.suffix.lower() not in (".png", ".html"):
        raise WrongUse(f"--out {out}: expected a name that ends in .png or .html")
    if out.exists() or out.is_symlink():
        raise WrongUse(f"--out {out} is already there and is not overwritten: give another name")
    load_tensorflow()
    from finetune.data.load_data import load_data
    from finetune.files import room_for
    from finetune.reporting.sheet import write_sheet
    from finetune.runs.preview import augmented, completed

    with progress() as display:
        config = _config(given)
        dataset = load_data(config, progress=display.download, on_scan=display.on_scan)
        found = augmented(completed(config, dataset), dataset, images=images)
    names = ("data", "image_size", "augment", "crop_padding", *CHANGES, "batch_size", "seed")
    facts = {name: getattr(found.config, name) for name in names}
    with room_for(out):
        write_sheet(out, found.images, found.labels, facts)
    if not printed_json({"out": str(out), "labels": found.labels, **facts}):
        click.echo(f"{out}: {len(found.labels)} images of {found.config.image_size} px, augment {found.config.augment}")
