"""The commands `finetune diagnose-bn` and `recalibrate-bn`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.model_options import model_options, open_model
from finetune.cli.shared_options import COUNT, PATH, output_options, printed_json, progress
from finetune.cli.startup import load_tensorflow
from finetune.cli.terminal import Columns, tabulated
from finetune.diagnosis import RECALIBRATION_IMAGES, TRAINING_IMAGES

if TYPE_CHECKING:
    from finetune.cli.console import Console
    from finetune.diagnosis.doctor import Diagnosis

WORST = 5
"""BN layers shown: those whose statistics are furthest off."""


@click.command("diagnose-bn")
@model_options()
@click.option(
    "--images", type=COUNT, default=TRAINING_IMAGES, help=f"Training images to measure.  [default: {TRAINING_IMAGES}]"
)
@click.option(
    "--all-checks", is_flag=True, help="Run every further check, not only those that the measurements suggest."
)
@click.option("--quick", is_flag=True, help="No further checks: the three accuracies and the drift only.")
@click.option("--html", type=PATH, metavar="FILE", help="Also write a page with plots.")
@click.option("--demo", is_flag=True, help="Examine a bundled ill model on generated images, in seconds.")
@output_options
def diagnose_bn(images: int, all_checks: bool, quick: bool, html: Path | None, demo: bool, **opening: Any) -> None:
    """Is BatchNorm to blame? Compare test accuracy with is_training False and True; name cause and remedy.

    RUN is a run directory or a .keras file in one. MODEL is a Keras model (.keras, .h5, SavedModel). For a slim
    checkpoint give --backbone and --checkpoint, for any TF1 graph --meta-graph. Exit code 3 means BatchNorm is
    unhealthy, 4 that the images are too few to show whether it is.

    \b
    finetune diagnose-bn runs/my-run
    finetune diagnose-bn model.keras --preprocess inception --data photos/
    finetune diagnose-bn --backbone resnet_v1_50 --checkpoint train_dir --image-size 64
    finetune diagnose-bn --meta-graph model.ckpt-1000.meta --preprocess unit
    """
    from finetune.errors import WrongUse
    from finetune.files import write_text
    from finetune.reporting.rendering import check_page_path

    if quick and all_checks:
        raise WrongUse("--quick and --all-checks contradict each other: give one of them")
    if html is not None:
        check_page_path(html)
    load_tensorflow()
    from finetune.diagnosis.doctor import diagnose
    from finetune.reporting.pages import render_diagnosis_page

    if demo:
        from finetune.diagnosis.targets.demo import NAME, ill_model

        if given := [name for name, value in opening.items() if value not in (None, (), False)]:
            raise WrongUse(f"--demo brings its own model and images: leave out --{given[0].replace('_', '-')}")
        checkpoint, arrays = ill_model()
        opening |= {"backbone": NAME, "checkpoint": checkpoint, "data": str(arrays)}
    with progress() as display:
        diagnosis = diagnose(
            open_model(display, **opening),
            images=images,
            extent="quick" if quick or (demo and not all_checks) else "all" if all_checks else "default",
            on_batch=display.batch,
        )
    if html is not None:
        write_text(html, render_diagnosis_page(diagnosis.to_json(), diagnosis.fed))
    if not printed_json(diagnosis.to_json()):
        from finetune.cli.console import output_console

        show_diagnosis(diagnosis, output_console())
    if diagnosis.verdict.exit_code:
        sys.exit(diagnosis.verdict.exit_code)


def show_diagnosis(diagnosis: "Diagnosis", out: "Console") -> None:
    """Print the accuracies, the worst layers, and the verdict with its evidence, excluded causes and remedy."""
    from finetune.cli.console import plain_table

    evidence, verdict = diagnosis.evidence, diagnosis.verdict
    rows: list[tuple[object, ...]] = []
    splits = (("test", evidence.test), ("training subset", evidence.train))
    for name, modes in splits:
        scores = [modes.is_training_false, modes.is_training_true, modes.recalibrated]
        rows.append((name, *(f"{score.accuracy:.1%}" for score in scores), scores[0].examples))
        if evidence.per_label:
            rows.append((f"{name}, single labels", *(f"{score.label_accuracy:.1%}" for score in scores), ""))
        if scores[0].map is not None:
            rows.append((f"{name}, mean average precision", *(f"{score.map:.1%}" for score in scores), ""))
    out.print_block(plain_table(("accuracy", "is_training=False", "is_training=True", "recalibrated", "images"), rows))
    layers = sorted(evidence.layers, key=lambda one: -max(one.mean_shift, one.log_variance_ratio / 2))[:WORST]
    roots = {layer.name.partition("/")[0] for layer in evidence.layers}
    root = f"{roots.pop()}/" if len(roots) == 1 else ""
    columns: Columns = {
        f"{len(layers)} worst of {len(evidence.layers)} BN layers": lambda layer: layer.name.removeprefix(
            root
        ).removesuffix("/BatchNorm"),
        "mean shift": lambda layer: f"{layer.mean_shift:.2f} sigma",
        "log var ratio": lambda layer: f"{layer.log_variance_ratio:.2f}",
        "N": lambda layer: f"{layer.values:.0f}",
    }
    out.print_block(plain_table(*tabulated(layers, columns)))
    out.print(f"{verdict.cause}: {verdict.sentence}", markup=False)
    for line in (*verdict.evidence[len(splits) :], *verdict.not_because):
        out.print(f"  - {line}", markup=False)
    for line in verdict.doubts:
        out.print(f"  - {line}", markup=False)
    if verdict.remedy:
        out.print(f"remedy: {verdict.remedy}", markup=False)


@click.command("recalibrate-bn")
@model_options()
@click.option(
    "--images",
    type=COUNT,
    default=RECALIBRATION_IMAGES,
    help=f"Training images to measure the statistics on.  [default: {RECALIBRATION_IMAGES}]",
)
@click.option("--out", type=PATH, metavar="PATH", help="[default: NAME-recalibrated beside the model]")
@output_options
def recalibrate_bn(images: int, out: Path | None, **opening: Any) -> None:
    """Write a copy of a model with moving statistics measured on training images.

    RUN, MODEL and the other ways to give a model are those of diagnose-bn. The copy has the format of the original: a
    slim checkpoint stays a slim checkpoint, a .keras file stays a .keras file.

    No weight changes. Nothing is overwritten, and nothing is written if it would make the model worse.
    """
    load_tensorflow()
    from finetune.diagnosis.doctor import recalibrate_bn as recalibrate

    with progress() as display:
        result = recalibrate(open_model(display, **opening), out=out, images=images, on_batch=display.batch)
    if not printed_json(result.to_json()):
        click.echo(
            f"test accuracy with is_training=False: {result.before.accuracy:.1%} before, {result.after.accuracy:.1%} "
            f"after recalibrating on {result.images} training images"
        )
        click.echo(f"wrote {result.path}")
