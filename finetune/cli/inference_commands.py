"""The commands that use a trained network: `finetune evaluate`, `predict`, `features` and `export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.model_options import model_options, open_model
from finetune.cli.shared_options import (
    CHECKPOINT,
    COUNT,
    CSV_COLUMNS,
    DATA_DIR,
    IMAGE_SIZE,
    NPZ_KEYS,
    PATH,
    SKIP_BAD_IMAGES,
    SPLIT,
    TFRECORD_KEYS,
    output_options,
    printed_json,
    progress,
    recipe_options,
)
from finetune.cli.startup import load_tensorflow
from finetune.cli.terminal import print_table
from finetune.config import SETTINGS, TTA
from finetune.errors import WrongUse

if TYPE_CHECKING:
    from finetune.evaluation.evaluator import Pass
    from finetune.inference.classifier import Classifier
    from finetune.inference.predict import Classifications


@click.command()
@model_options(training=False, switch="--training-switch")
@SPLIT
@click.option(
    "--is-training",
    "mode",
    type=click.Choice(["false", "true"]),
    default="false",
    help="false: moving statistics; true: batch statistics. Dropout is off in both.  [default: false]",
)
@click.option("--tta", type=click.Choice(list(TTA)), help=SETTINGS["tta"].help)
@output_options
def evaluate(split: str, mode: str, tta: str | None, **opening: Any) -> None:
    """Measure accuracy and loss of a model; every image counts once.

    RUN is a run directory or a .keras file in one, scored on its own data. MODEL and the other ways to give a model are
    those of diagnose-bn; it need not have BatchNorm.
    """
    load_tensorflow()
    from finetune.runs.model import concern

    target = opening["target"]
    with progress() as display:
        passes, run = _passes(display, opening, split=split, batch=mode == "true", tta=tta)
    if run and (broken := concern(target)) is not None:
        click.echo(f"warning: {broken}", err=True)
    evaluation, *views = (one.evaluation for one in passes)
    averaged = {"tta": {"kind": tta, **views[0].to_json()}} if views else {}
    named = target or opening["meta_graph"] or opening["checkpoint"]
    about = {"target": str(named), "split": split, "is_training": mode == "true"}
    if printed_json({**about, **evaluation.to_json(), **averaged}):
        return
    for one, words in ((evaluation, ""), *((one, f", {TTA[str(tta)]}") for one in views)):
        labels = "" if one.label_accuracy is None else f", of single labels {one.label_accuracy:.2%}"
        known = {"balanced accuracy": one.balanced_accuracy, "macro F1": one.macro_f1, "micro F1": one.micro_f1}
        known |= {"mean average precision": one.map, "all labels right": one.exact_match}
        scores = "".join(f"{name} {value:.2%}, " for name, value in known.items() if value is not None)
        click.echo(
            f"{split}: accuracy {one.accuracy:.2%} (± {one.standard_error:.2%}){labels}, {scores}loss {one.loss:.4f}, "
            f"{one.examples} images, is_training={mode.capitalize()}{words}"
        )


def _passes(
    display: Any, opening: dict[str, Any], *, split: str, batch: bool, tta: str | None
) -> tuple[list["Pass"], bool]:
    """The passes over a split, and whether the model is that of a run."""
    from finetune.diagnosis.doctor import evaluate as evaluate_target
    from finetune.diagnosis.targets.opening import is_run
    from finetune.runs.model import examine_run

    target = opening["target"]
    how: dict[str, Any] = {"split": split, "statistics": "batch" if batch else "moving", "tta": tta}
    if target is None or not is_run(target):
        return evaluate_target(open_model(display, **opening), **how, on_batch=display.batch), False
    others = [name for name, value in opening.items() if value and name not in ("target", "data_dir")]
    if others:
        raise WrongUse(
            f"--{others[0].replace('_', '-')}: {target} is a run, whose config.json says what it was: leave it out"
        )
    return examine_run(target, data_dir=opening["data_dir"], **how, on_batch=display.batch), True


@click.command()
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="[RUN|MODEL] IMAGE|DIR...")
@model_options(argument=False, training=False, switch="--training-switch")
@click.option(
    "--top",
    type=COUNT,
    metavar="K",
    help="Classes per image.  [default: 5; of several labels an image, those with a yes]",
)
@click.option("--csv", "csv_file", type=PATH, metavar="FILE", help="Also write the table to this file.")
@click.option(
    "--thresholds",
    is_flag=True,
    help="Say yes or no for each class, by the threshold that a run chose for it on its validation images; classes "
    "with a yes are listed beyond K.",
)
@click.option(
    "--explain",
    "explain_folder",
    type=PATH,
    metavar="FOLDER",
    help="Write a picture of each image with a heat map (Grad-CAM): where the network found the class.",
)
@click.option(
    "--explain-layer",
    metavar="NAME",
    help="With --explain: the layer whose maps are shown.  [default: the last one with maps]",
)
@click.option(
    "--explain-class",
    metavar="NAME|NUMBER",
    help="With --explain: the class to show.  [default: the predicted one]",
)
@click.option(
    "--tta",
    type=click.Choice(list(TTA)),
    help="Average the probabilities of several views of each image, as 'finetune evaluate --tta' scores them.",
)
@SKIP_BAD_IMAGES
@output_options
def predict(
    paths: tuple[Path, ...],
    top: int | None,
    csv_file: Path | None,
    thresholds: bool,
    explain_folder: Path | None,
    explain_layer: str | None,
    explain_class: str | None,
    tta: str | None,
    skip_bad_images: bool,
    **opening: Any,
) -> None:
    """Print the most probable classes of images, as a model predicts them.

    RUN is a run directory, a .keras file in one, or a file that 'finetune export --format keras' wrote. Images are
    preprocessed as in the run's evaluation. MODEL and the other ways to give a model are those of diagnose-bn; the
    classes have the names of --data, or are numbered. Folders are read in sorted order, with their subfolders.
    """
    load_tensorflow()
    from finetune.inference.predict import PredictOptions, refuse_existing
    from finetune.inference.predict import predict as classify

    if csv_file is not None:
        refuse_existing(csv_file)
    _check_explain(explain_folder, layer=explain_layer, of_class=explain_class)
    options = PredictOptions(
        top,
        thresholds,
        skip_bad_images,
        opening["batch_size"],
        explain_folder is not None,
        explain_layer,
        explain_class,
        tta,
    )
    named = opening["backbone"] or opening["meta_graph"]
    target, images = (None, paths) if named else (paths[0], paths[1:])
    if not images:
        raise WrongUse(f"missing the images to classify with {target}: give image files or folders after it")
    with progress() as display:
        found = classify(
            _classifier(display, target, opening),
            images,
            options,
            on_scan=display.on_scan,
            on_batch=display.batch,
        )
        pictures = _explain(found, explain_folder, display) if explain_folder is not None else None
    if csv_file is not None:
        found.write_csv(csv_file)
    if printed_json(found.to_json(pictures)):
        return
    _print_classes(found)
    if found.explained is not None and pictures is not None:
        count = f"{len(pictures)} picture{'s' if len(pictures) > 1 else ''}"
        click.echo(f"heat maps of {found.explained.layer}: {count} in {explain_folder}", err=True)


def _print_classes(found: "Classifications") -> None:
    """The table, and what the user must know."""
    header = ("image", "rank", "class", "probability", *(("threshold", "") if found.thresholds else ()))
    rows = [
        (image, "-", "no label", *("",) * (len(header) - 3))
        if rank is None
        else (image, str(rank), name, f"{chance:.2%}", *(_decided(*more) if more else ()))
        for image, rank, _, name, chance, *more in found.rows()
    ]
    print_table(header, rows, numbers=("rank", "probability", "threshold"))
    for remark in found.remarks:
        click.echo(remark, err=True)
    if found.skipped:
        click.echo(f"left out as damaged: {len(found.skipped)} of {len(found.skipped) + len(found.images)}", err=True)
        for reason in found.skipped:
            click.echo(f"  {reason}", err=True)


def _check_explain(folder: Path | None, *, layer: str | None, of_class: str | None) -> None:
    """WrongUse for options without --explain, and for a folder that is already there."""
    from finetune.reporting.heat_maps import check_folder

    for option, given in (("--explain-layer", layer), ("--explain-class", of_class)):
        if folder is None and given is not None:
            raise WrongUse(f"{option} goes with --explain: give --explain FOLDER too, or leave it out")
    if folder is not None:
        check_folder(folder, "--explain")


def _explain(found: "Classifications", folder: Path, display: Any) -> tuple[Path, ...]:
    """Write the pictures."""
    from finetune.reporting.heat_maps import write_pictures

    display.say(f"writing heat maps to {folder}")
    return write_pictures(folder, found.heat_maps())


def _decided(threshold: float | None, passes: bool | None) -> tuple[str, str]:
    return ("-", "") if threshold is None else (f"{threshold:.2%}", "yes" if passes else "no")


def _classifier(display: Any, target: Path | None, opening: dict[str, Any]) -> "Path | Classifier":
    """A run, or an export, which says what it is; any other model, opened by the options for it."""
    from finetune.diagnosis.targets.opening import is_run
    from finetune.inference.classifier import Classifier, is_export

    others = [name for name, value in opening.items() if value and name != "batch_size"]
    if target is not None and (is_run(target) or is_export(target)):
        if others:
            raise WrongUse(f"--{others[0].replace('_', '-')}: {target} says what it was trained with: leave it out")
        return target
    opened = open_model(display, target=target, **opening, model_only=True)
    dataset = opened.data.dataset
    if dataset is not None:
        return Classifier(opened.name, opened.subject, opened.data.config, dataset.class_names)
    names = tuple(str(number) for number in range(opened.subject.outputs))
    note = "the classes are numbered from 0: a model file does not name them; give the data they are from with --data"
    return Classifier(opened.name, opened.subject, opened.data.config, names, notes=(note,))


@click.command()
@click.argument("target", metavar="RUN|BACKBONE")
@click.argument("images", type=PATH, nargs=-1, metavar="[IMAGE|DIR]...")
@click.option(
    "--layer",
    required=True,
    metavar="NAME",
    help="An end point of slim, such as resnet_v1_50/block3, Mixed_5c or global_pool; or a Keras layer.",
)
@click.option("--out", type=PATH, required=True, metavar="FILE.npz", help="The file to write. Nothing is overwritten.")
@click.option("--data", metavar="NAME|PATH", help="The data, as for 'finetune run'.  [default: the run's own]")
@DATA_DIR
@NPZ_KEYS
@TFRECORD_KEYS
@CSV_COLUMNS
@SPLIT
@click.option(
    "--pool",
    type=click.Choice(["mean", "max", "none"]),
    default="mean",
    show_default=True,
    help="How to pool over height and width, if the layer gives maps.",
)
@CHECKPOINT
@click.option(
    "--image-size",
    type=IMAGE_SIZE,
    metavar="PX|HxW",
    help="Side in px, or 24x32, for a backbone.  [default: the published one]",
)
@click.option("--preprocess", metavar="NAME", help="Preprocessing, for a backbone.  [default: that of its training]")
@recipe_options
@click.option("--batch-size", type=COUNT, metavar="N", help="[default: the run's, or 32]")
@SKIP_BAD_IMAGES
@output_options
def features(**given: Any) -> None:
    """Write a layer's output for every image: embeddings, with labels and paths.

    RUN is a run directory or a .keras file in one. BACKBONE is anything that 'finetune run --backbone' accepts. Without
    image files, the images are those of --data.
    """
    load_tensorflow()
    from finetune.inference.embeddings import EmbeddingOptions, write_features

    with progress() as display:
        written = write_features(
            EmbeddingOptions(**given), progress=display.download, on_scan=display.on_scan, on_batch=display.batch
        )
    if printed_json({"target": given["target"], **written.to_json()}):
        return
    click.echo(f"{written.out}: features {list(written.shape)} of {written.layer}")
    for remark in (*written.remarks, *(f"left out as damaged: {reason}" for reason in written.skipped)):
        click.echo(remark, err=True)
