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
    TARGET,
    TFRECORD_KEYS,
    output_options,
    printed_json,
    progress,
    recipe_options,
)
from finetune.cli.startup import load_tensorflow
from finetune.cli.terminal import print_table
from finetune.errors import WrongUse
from finetune.inference.export.exported import AGREEMENT, FORMATS, MOST_LOST, Calibration, Export, TrialOptions

if TYPE_CHECKING:
    from finetune.evaluation.evaluator import Pass
    from finetune.inference.predict import Classifier


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
@click.option(
    "--tta",
    type=click.Choice(["flip"]),
    help="flip: also score the averaged probabilities of every image and its mirror image.",
)
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
        passes, run = _passes(display, opening, split=split, batch=mode == "true", flip=tta == "flip")
    if run and (broken := concern(target)) is not None:
        click.echo(f"warning: {broken}", err=True)
    evaluation, *flipped = (one.evaluation for one in passes)
    averaged = {"tta": {"kind": tta, **flipped[0].to_json()}} if flipped else {}
    named = target or opening["meta_graph"] or opening["checkpoint"]
    about = {"target": str(named), "split": split, "is_training": mode == "true"}
    if printed_json({**about, **evaluation.to_json(), **averaged}):
        return
    for one, words in ((evaluation, ""), *((one, ", averaged with the mirror images") for one in flipped)):
        labels = "" if one.label_accuracy is None else f", of single labels {one.label_accuracy:.2%}"
        known = {"balanced accuracy": one.balanced_accuracy, "macro F1": one.macro_f1, "micro F1": one.micro_f1}
        known |= {"mean average precision": one.map, "all labels right": one.exact_match}
        scores = "".join(f"{name} {value:.2%}, " for name, value in known.items() if value is not None)
        click.echo(
            f"{split}: accuracy {one.accuracy:.2%} (± {one.standard_error:.2%}){labels}, {scores}loss {one.loss:.4f}, "
            f"{one.examples} images, is_training={mode.capitalize()}{words}"
        )


def _passes(display: Any, opening: dict[str, Any], *, split: str, batch: bool, flip: bool) -> tuple[list["Pass"], bool]:
    """The passes over a split, and whether the model is that of a run."""
    from finetune.diagnosis.doctor import evaluate as evaluate_target
    from finetune.diagnosis.targets.opening import is_run
    from finetune.runs.model import examine_run

    target = opening["target"]
    how: dict[str, Any] = {"split": split, "statistics": "batch" if batch else "moving", "flip": flip}
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
@SKIP_BAD_IMAGES
@output_options
def predict(
    paths: tuple[Path, ...],
    top: int | None,
    csv_file: Path | None,
    thresholds: bool,
    skip_bad_images: bool,
    **opening: Any,
) -> None:
    """Print the most probable classes of images, as a model predicts them.

    RUN is a run directory, a .keras file in one, or a file that 'finetune export --format keras' wrote. Images are
    preprocessed as in the run's evaluation. MODEL and the other ways to give a model are those of diagnose-bn; the
    classes have the names of --data, or are numbered. Folders are read in sorted order, with their subfolders.
    """
    load_tensorflow()
    from finetune.inference.predict import predict as classify
    from finetune.inference.predict import refuse_existing

    if csv_file is not None:
        refuse_existing(csv_file)
    named = opening["backbone"] or opening["meta_graph"]
    target, images = (None, paths) if named else (paths[0], paths[1:])
    if not images:
        raise WrongUse(f"missing the images to classify with {target}: give image files or folders after it")
    with progress() as display:
        found = classify(
            _classifier(display, target, opening),
            images,
            top=top,
            by_thresholds=thresholds,
            skip_bad_images=skip_bad_images,
            batch_size=opening["batch_size"],
            on_scan=display.on_scan,
            on_batch=display.batch,
        )
    if csv_file is not None:
        found.write_csv(csv_file)
    if printed_json(found.to_json()):
        return
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


def _decided(threshold: float | None, passes: bool | None) -> tuple[str, str]:
    return ("-", "") if threshold is None else (f"{threshold:.2%}", "yes" if passes else "no")


def _classifier(display: Any, target: Path | None, opening: dict[str, Any]) -> "Path | Classifier":
    """A run, or an export, which says what it is; any other model, opened by the options for it."""
    from finetune.diagnosis.targets.opening import is_run
    from finetune.inference.predict import Classifier, is_export

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


@click.command(epilog="Formats: " + "; ".join(f"{name}: {one.words}" for name, one in FORMATS.items()) + ".")
@TARGET
@click.option(
    "--format",
    "forms",
    type=click.Choice(list(FORMATS)),
    required=True,
    multiple=True,
    help="What to write. Repeatable: several formats go into one directory.",
)
@click.option(
    "--out",
    type=PATH,
    required=True,
    metavar="PATH",
    help="The file to write; for savedmodel the directory, for slim the prefix, such as exported/model.ckpt; for "
    "several formats one directory for all. Nothing is overwritten.",
)
@click.option(
    "--with-preprocessing",
    is_flag=True,
    help="Include resizing and preprocessing: the export then takes uint8 RGB pixels.",
)
@DATA_DIR
@click.option("--images", type=COUNT, metavar="N", help="Re-evaluate on N test images.  [default: all]")
@click.option(
    "--assert-accuracy",
    "least_accuracy",
    type=click.FloatRange(0, 1),
    metavar="F",
    help="Write nothing and exit with code 1 if an export's test accuracy is below this fraction.",
)
@click.option("--no-evaluation", is_flag=True, help="Do not re-evaluate, as when the test images are missing.")
@click.option(
    "--representative",
    type=COUNT,
    metavar="N",
    help="Training images from which tflite-int8 and onnx-int8 take the ranges of activations.  [default: 200]",
)
@output_options
def export(
    target: Path,
    forms: tuple[str, ...],
    out: Path,
    with_preprocessing: bool,
    data_dir: Path | None,
    images: int | None,
    least_accuracy: float | None,
    no_evaluation: bool,
    representative: int | None,
) -> None:
    """Write a finished run in the formats of other programs, and re-evaluate each in its own runtime.

    RUN is a run directory, or a .keras file in one, such as what recalibrate-bn writes.
    """
    if least_accuracy is not None and no_evaluation:
        raise WrongUse("--assert-accuracy needs the evaluation: leave --no-evaluation out")
    load_tensorflow()
    from finetune.inference.export.write import export as write_export

    with progress() as display:
        trial = None if no_evaluation else TrialOptions(data_dir, images, least_accuracy, display.batch)
        exported = write_export(
            target,
            out,
            forms=forms,
            with_preprocessing=with_preprocessing,
            evaluation=trial,
            calibration=Calibration(representative, data_dir),
        )
    if printed_json({"target": str(target), **exported.to_json()}):
        return
    for one in exported.exported:
        click.echo(one.summary())
    _print_trials(exported)


def _print_trials(exported: Export) -> None:
    """Print the table of the re-evaluation, and a warning if an export classifies differently from the run."""
    if exported.run is None:
        click.echo("not re-evaluated (--no-evaluation)", err=True)
        return
    own = [("run", exported.run)]
    if exported.decoded:
        own.append(("run, photos decoded in full", exported.decoded))
    if exported.folded:
        own.append(("BatchNorm folded, float32", exported.folded))
    trials = [(one.form, one.trial) for one in exported.exported if one.trial]
    header = ("", "accuracy", "difference", "same class", "logits differ by", "MB", "ms/image")
    cells = []
    for name, trial in own + trials:
        compared = (f"{trial.difference:+.2%}", f"{trial.agreement:.2%}", f"{trial.largest_logit_difference:.1e}")
        figures = (f"{trial.accuracy:.2%}", *(("", "", "") if name == "run" else compared))
        cells.append((name, *figures, f"{trial.bytes / 1e6:.2f}", f"{trial.milliseconds_per_image:.2f}"))
    click.echo()
    print_table(header, cells, numbers=header[1:])
    click.echo(f"{exported.run.images} test images, each export in its own runtime; times are for single images")
    if exported.decoded:
        click.echo(
            "exports are compared with the run on photos decoded in full; in the run's evaluation, libjpeg decodes "
            "large photos at a fraction of their size"
        )
    for name, trial in trials:
        if FORMATS[name].quantised:
            click.echo(f"{name}: {100 * trial.difference:+.2f} points against the run, 95 % interval {trial.interval}")
    for name, trial in trials:
        quantised = FORMATS[name].quantised
        if quantised and trial.interval.high < 0 and trial.difference <= -MOST_LOST:
            click.echo(
                f"warning: the {name} export loses {-100 * trial.difference:.2f} points, expected less than "
                f"{100 * MOST_LOST:g}: try more --representative images, or tflite-float16",
                err=True,
            )
        if not quantised and trial.agreement < AGREEMENT:
            click.echo(
                f"warning: the {name} export predicts the run's class on {trial.agreement:.2%} of the images, expected "
                f"{AGREEMENT:.1%} or more",
                err=True,
            )
