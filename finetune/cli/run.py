"""`finetune run`."""

import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from finetune.cli import completion, options
from finetune.cli.startup import load_tensorflow

_SECTIONS = {
    "--backbone": "What to start from",
    "--data": "Data",
    "--image-size": "Images",
    "--dropout": "Head",
    "--preset": "What trains",
    "--bn": "BatchNorm",
    "--epochs": "Training",
    "--ema": "At the end",
    "--seed": "The run",
}


@click.command(cls=options.Sectioned, sections=_SECTIONS)
@click.option(
    "--backbone",
    metavar="NAME|PATH",
    shell_complete=completion.backbones,
    help="A name of 'finetune backbones list', such as resnet_v1_101; a Keras model of your own (.keras, .h5, a run); "
    "hub:HANDLE or a SavedModel directory.",
)
@click.option("--config", type=options.PATH, metavar="FILE", help="A config.json to repeat; options given here win.")
@click.option("--resume", type=options.PATH, metavar="RUN", help="Continue an interrupted run directory.")
@options.CHECKPOINT
@click.option("--from-scratch", is_flag=True, default=None, help="Random weights instead of a checkpoint.")
@options.DATA
@options.DATA_DIR
@click.option("--examples", type=int, metavar="N", help="Train on N images, the same share of every class.")
@click.option("--few-shot", type=int, metavar="K", help="Train on K images of every class, drawn by the seed.")
@click.option(
    "--test", type=float, metavar="F", help="Share held out as test images where the data has none.  [default: 0.2]"
)
@click.option("--validation", type=float, metavar="F", help="Share of training images held out.  [default: 0.05]")
@click.option("--skip-bad-images", is_flag=True, default=None, help="Leave damaged images out, and say which.")
@click.option(
    "--image-size",
    type=int,
    metavar="PX",
    help="Side in px.  [default: three times the images' own; their own from scratch]",
)
@click.option(
    "--preprocess",
    metavar="NAME",
    help="inception, vgg, caffe, torch, densenet, unit or raw.  [default: the backbone's]",
)
@click.option(
    "--augment",
    metavar="KIND",
    help="crop-flip, resized-crop-flip, flip or none.  [default: crop-flip; resized-crop-flip for photos; none for a "
    "linear probe]",
)
@click.option("--crop-padding", type=int, metavar="PX", help="Padding of the random crop.  [default: 1/8 of the side]")
@click.option(
    "--rand-augment",
    type=float,
    is_flag=False,
    flag_value=0.5,
    metavar="[MAGNITUDE]",
    help="RandAugment, two random operations an image; magnitude up to 1, by itself 0.5.",
)
@click.option("--mixup", type=float, metavar="ALPHA", help="Mix images of a batch and their labels, such as 0.2.")
@click.option("--cutmix", type=float, metavar="ALPHA", help="Paste a box of another image, and its label, such as 1.")
@click.option("--dropout", type=float, metavar="F", help="Dropout in front of the logits.  [default: 0]")
@click.option(
    "--head",
    metavar="swap|keep",
    help="keep: the file's own head, whose classes are the data's in the same order.  [default: swap, a new head]",
)
@click.option(
    "--features",
    metavar="LAYER",
    help="Layer of a model file whose output are the features.  [default: what its head starts from]",
)
@click.option("--hidden", type=int, metavar="N", help="A hidden layer of N units in the head.")
@click.option(
    "--preset",
    metavar="NAME",
    help="linear-probe (the head alone), fine-tune (the defaults) or gradual (the head first, then stages from the "
    "top, with lower rates below); options given beside it win.",
)
@click.option(
    "--freeze",
    multiple=True,
    metavar="PATTERN[=train]",
    help="Freeze matching layers; '=train' exempts them from later patterns. First match wins. Repeatable.",
)
@click.option(
    "--unfreeze-epochs",
    type=int,
    metavar="N",
    help="Train the head alone, then ever more stages from the top, and all after N epochs.",
)
@click.option("--freeze-until", metavar="STAGE", help="Freeze every stage up to and including STAGE.")
@click.option(
    "--layer-decay",
    type=float,
    metavar="F",
    help="Multiplies the learning rate once for every stage from the top: 0.8 gives 0.8, 0.64, ... below the head.",
)
@click.option(
    "--bn",
    multiple=True,
    metavar="[PATTERN=]POLICY",
    help="BN policy train, freeze, affine or stats, for matching layers. First match wins. Repeatable.",
)
@click.option(
    "--bn-decay",
    type=options.NumberOrAuto("in (0, 1)"),
    metavar="F|auto",
    help="Share of the old moving value kept.  [default: auto]",
)
@click.option("--bn-epsilon", type=float, metavar="F", help="Added to the variance.  [default: as published]")
@click.option("--bn-updates", metavar="on|off", help="off: never update moving statistics, the forgotten UPDATE_OPS.")
@click.option(
    "--bn-renorm/--no-bn-renorm", default=None, help="Batch renormalisation, for small batches.  [default: off]"
)
@click.option(
    "--bn-zero-debias/--no-bn-zero-debias",
    default=None,
    help="Moving means forget where they started at the first update.  [default: off]",
)
@click.option(
    "--bn-sync/--no-bn-sync",
    default=None,
    help="With --distribute: batch statistics over the whole batch, not over each replica's share.  [default: off]",
)
@click.option(
    "--recalibrate-at-end/--no-recalibrate-at-end", default=None, help="Recompute the moving statistics last."
)
@click.option(
    "--diagnose-every",
    type=int,
    metavar="K",
    help="Diagnose BatchNorm every K epochs, on validation and training images, into metrics.jsonl.",
)
@click.option(
    "--tracker",
    multiple=True,
    metavar="NAME[=PLACE]",
    help="Tell a tracker as well: tensorboard[=DIR] (in the run, or in DIR), mlflow[=DIR|URI] (mlflow.db beside the "
    "runs, or there). Repeatable. metrics.csv and metrics.jsonl are always written.",
)
@click.option("--epochs", type=int, metavar="N", help="[default: by the number of images]")
@click.option("--batch-size", type=int, metavar="N", help="[default: 64, less for few images]")
@click.option(
    "--microbatch",
    type=int,
    metavar="N",
    help="At most N images of a batch at a time, their gradients added up: less memory. BatchNorm normalises by "
    "each N, and is updated by each.  [default: the whole batch]",
)
@click.option(
    "--precision",
    metavar="NAME",
    help="What training steps compute in: float32, or bfloat16, which is faster where the processor has it; weights, "
    "statistics and every evaluation stay float32.  [default: float32]",
)
@click.option("--optimizer", metavar="NAME", help="adamw or sgd (Nesterov momentum 0.9).  [default: adamw]")
@click.option(
    "--learning-rate",
    "--lr",
    type=options.NumberOrAuto("above 0"),
    metavar="F|auto",
    help="Peak learning rate; auto: found by a range test.  [default: by optimizer and batch]",
)
@click.option(
    "--weight-decay", type=float, metavar="F", help="Decoupled; not on BN and biases.  [default: by optimizer]"
)
@click.option("--schedule", metavar="KIND", help="cosine or constant.  [default: cosine]")
@click.option("--warmup", type=float, metavar="F", help="Share of the steps that warm up.  [default: 0.1]")
@click.option("--label-smoothing", type=float, metavar="F", help="[default: 0]")
@click.option("--clip-norm", type=float, metavar="F", help="Clip the gradients' global norm.")
@click.option("--patience", type=int, metavar="N", help="Stop after N epochs without a better validation accuracy.")
@click.option(
    "--distribute",
    metavar="none|mirrored|multi-worker",
    help="mirrored: over the GPUs of this machine. multi-worker: over machines, each of which runs this command, as "
    "TF_CONFIG or Slurm says. --batch-size is that of all of them together.  [default: none]",
)
@click.option(
    "--ema",
    type=float,
    metavar="F",
    help="Average the weights, keeping the share F at every step, such as 0.999; BN statistics are recalibrated for "
    "the average, which is what model.keras holds.",
)
@click.option(
    "--tta",
    metavar="flip",
    help="Also score the averaged probabilities of every test image and its mirror image.",
)
@click.option(
    "--cache-features",
    metavar="auto|on|off",
    help="Compute what is frozen once per image, and keep it for other runs: where that pays and fits, or fail, or "
    "never.  [default: auto]",
)
@click.option("--cache-precision", metavar="NAME", help="float32, or float16 in half the space.  [default: float32]")
@click.option(
    "--cache-budget",
    metavar="SIZE",
    help="What all cached features may take, such as 10GiB; the least recently used go first.  [default: a quarter "
    "of the free disk]",
)
@click.option("--seed", type=int, metavar="N", help="[default: 0]")
@click.option("--deterministic", is_flag=True, default=None, help="Bit-identical repeats on one machine; slower.")
@click.option("--run-dir", type=options.PATH, metavar="DIR", help="Directory of this run; must not exist.")
@click.option(
    "--runs-dir", type=options.PATH, metavar="DIR", default="runs", help="Where runs get a name.  [default: runs]"
)
@options.JSON
@options.QUIET
@click.pass_context
def run(
    ctx: click.Context,
    /,
    resume: Path | None,
    config: Path | None,
    run_dir: Path | None,
    runs_dir: Path,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Carry a pretrained backbone over to new data: swap the head, train, evaluate, write the run.

    \b
    finetune run --backbone resnet_v1_101 --bn-decay 0.95
    finetune run --backbone keras/densenet121 --freeze-until conv4 --bn 'conv5=train' --bn freeze
    """
    from finetune.config import RunConfig, from_mapping, read_file
    from finetune.errors import WrongUse

    chosen = {key: _plain(value) for key, value in given.items() if value is not None and value != ()}
    if resume is not None:
        typed = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        others = [name for name in typed if name not in ("resume", "as_json", "quiet", "distribute")]
        if others:
            raise WrongUse(
                "--resume takes everything from the run's config.json: give no other setting with it "
                f"(found --{others[0].replace('_', '-')})"
            )
    else:
        base = read_file(config) if config else {}
        if not base and "backbone" not in chosen:
            raise WrongUse("missing --backbone NAME: 'finetune backbones list' lists them, resnet_v1_50 is one")
        settings: RunConfig = from_mapping(base, where=str(config or "the options"), options=chosen)

    load_tensorflow()
    from finetune import launch
    from finetune.cli.display import console_display, show_result

    with console_display(quiet=quiet) as display:
        if resume is not None:
            finished = launch.resume(resume, distribute=chosen.get("distribute"), display=display)
        else:
            finished = launch.start(settings, run_dir=run_dir, runs_dir=runs_dir, display=display)
    if isinstance(finished, launch.Worker):
        if as_json:
            options.emit({"run": finished.run, "worker": finished.rank, "workers": finished.workers})
        return
    result = finished.read("result.json", "test", "bn", "proof", "train_seconds", "peak_memory_mib")
    if as_json:
        options.emit({"run": str(finished), "status": finished.status, **result})
    else:
        show_result(finished, result)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        # A run directory is resumed from anywhere: paths in it must not depend on where it was started.
        return os.path.abspath(value)
    return list(value) if isinstance(value, tuple) else value
