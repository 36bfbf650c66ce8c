"""The options of `finetune run`, by the headings they are listed under."""

from collections.abc import Callable
from typing import Any

import click

from finetune.cli import completion_command, shared_options

SECTIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    "What to start from": (
        click.option(
            "--backbone",
            metavar="NAME|PATH",
            shell_complete=completion_command.backbones,
            help="A name of 'finetune backbones list', such as resnet_v1_101; a Keras model of your own (.keras, "
            ".h5, a run); hub:HANDLE or a SavedModel directory.",
        ),
        click.option(
            "--config",
            type=shared_options.PATH,
            metavar="FILE",
            help="A config.json to repeat; options given here win.",
        ),
        click.option(
            "--resume", type=shared_options.PATH, metavar="RUN", help="Continue an interrupted run directory."
        ),
        shared_options.CHECKPOINT,
        click.option("--from-scratch", is_flag=True, default=None, help="Random weights instead of a checkpoint."),
    ),
    "Data": (
        shared_options.DATA,
        shared_options.DATA_DIR,
        click.option("--examples", type=int, metavar="N", help="Train on N images, the same share of every class."),
        click.option("--few-shot", type=int, metavar="K", help="Train on K images of every class, drawn by the seed."),
        click.option(
            "--test",
            type=float,
            metavar="F",
            help="Share held out as test images where the data has none.  [default: 0.2]",
        ),
        click.option(
            "--validation", type=float, metavar="F", help="Share of training images held out.  [default: 0.05]"
        ),
        click.option("--skip-bad-images", is_flag=True, default=None, help="Leave damaged images out, and say which."),
        click.option(
            "--allow-overlap", is_flag=True, default=None, help="Run although test images are training images as well."
        ),
    ),
    "Images": (
        click.option(
            "--image-size",
            type=int,
            metavar="PX",
            help="Side in px.  [default: three times the images' own; their own from scratch]",
        ),
        click.option(
            "--preprocess",
            metavar="NAME",
            help="inception, vgg, caffe, torch, densenet, unit or raw.  [default: the backbone's]",
        ),
        click.option(
            "--augment",
            metavar="KIND",
            help="crop-flip, resized-crop-flip, flip or none.  [default: crop-flip; resized-crop-flip for photos; "
            "none for a linear probe]",
        ),
        click.option(
            "--crop-padding", type=int, metavar="PX", help="Padding of the random crop.  [default: 1/8 of the side]"
        ),
        click.option(
            "--rand-augment",
            type=float,
            is_flag=False,
            flag_value=0.5,
            metavar="[MAGNITUDE]",
            help="RandAugment, two random operations an image; magnitude up to 1, by itself 0.5.",
        ),
        click.option(
            "--mixup", type=float, metavar="ALPHA", help="Mix images of a batch and their labels, such as 0.2."
        ),
        click.option(
            "--cutmix", type=float, metavar="ALPHA", help="Paste a box of another image, and its label, such as 1."
        ),
    ),
    "Head": (
        click.option("--dropout", type=float, metavar="F", help="Dropout in front of the logits.  [default: 0]"),
        click.option(
            "--head",
            metavar="swap|keep",
            help="keep: the file's own head, whose classes are the data's in the same order.  [default: swap, a new "
            "head]",
        ),
        click.option(
            "--features",
            metavar="LAYER",
            help="Layer of a model file whose output are the features.  [default: what its head starts from]",
        ),
        click.option("--hidden", type=int, metavar="N", help="A hidden layer of N units in the head."),
    ),
    "What trains": (
        click.option(
            "--preset",
            metavar="NAME",
            help="linear-probe (the head alone), fine-tune (the defaults) or gradual (the head first, then stages "
            "from the top, with lower rates below); options given beside it win.",
        ),
        click.option(
            "--freeze",
            multiple=True,
            metavar="PATTERN[=train]",
            help="Freeze matching layers; '=train' exempts them from later patterns. First match wins. Repeatable.",
        ),
        click.option(
            "--unfreeze-epochs",
            type=int,
            metavar="N",
            help="Train the head alone, then ever more stages from the top, and all after N epochs.",
        ),
        click.option("--freeze-until", metavar="STAGE", help="Freeze every stage up to and including STAGE."),
        click.option(
            "--layer-decay",
            type=float,
            metavar="F",
            help="Multiplies the learning rate once for every stage from the top: 0.8 gives 0.8, 0.64, ... below "
            "the head.",
        ),
    ),
    "BatchNorm": (
        click.option(
            "--bn",
            multiple=True,
            metavar="[PATTERN=]POLICY",
            help="BN policy train, freeze, affine or stats, for matching layers. First match wins. Repeatable.",
        ),
        click.option(
            "--bn-decay",
            type=shared_options.NumberOrAuto("in (0, 1)"),
            metavar="F|auto",
            help="Share of the old moving value kept.  [default: auto]",
        ),
        click.option("--bn-epsilon", type=float, metavar="F", help="Added to the variance.  [default: as published]"),
        click.option(
            "--bn-updates", metavar="on|off", help="off: never update moving statistics, the forgotten UPDATE_OPS."
        ),
        click.option(
            "--bn-renorm/--no-bn-renorm", default=None, help="Batch renormalisation, for small batches.  [default: off]"
        ),
        click.option(
            "--bn-zero-debias/--no-bn-zero-debias",
            default=None,
            help="Moving means forget where they started at the first update.  [default: off]",
        ),
        click.option(
            "--bn-sync/--no-bn-sync",
            default=None,
            help="With --distribute: batch statistics over the whole batch, not over each replica's share.  "
            "[default: off]",
        ),
        click.option(
            "--recalibrate-at-end/--no-recalibrate-at-end", default=None, help="Recompute the moving statistics last."
        ),
        click.option(
            "--diagnose-every",
            type=int,
            metavar="K",
            help="Diagnose BatchNorm every K epochs, on validation and training images, into metrics.jsonl.",
        ),
        click.option(
            "--tracker",
            multiple=True,
            metavar="NAME[=PLACE]",
            help="Tell a tracker as well: tensorboard[=DIR] (in the run, or in DIR), mlflow[=DIR|URI] (mlflow.db "
            "beside the runs, or there). Repeatable. metrics.csv and metrics.jsonl are always written.",
        ),
    ),
    "Training": (
        click.option("--epochs", type=int, metavar="N", help="[default: by the number of images]"),
        click.option("--batch-size", type=int, metavar="N", help="[default: 64, less for few images]"),
        click.option(
            "--microbatch",
            type=int,
            metavar="N",
            help="At most N images of a batch at a time, their gradients added up: less memory. BatchNorm "
            "normalises by each N, and is updated by each.  [default: the whole batch]",
        ),
        click.option(
            "--precision",
            metavar="NAME",
            help="What training steps compute in: float32, or bfloat16, which is faster where the processor has it; "
            "weights, statistics and every evaluation stay float32.  [default: float32]",
        ),
        click.option("--optimizer", metavar="NAME", help="adamw or sgd (Nesterov momentum 0.9).  [default: adamw]"),
        click.option(
            "--learning-rate",
            "--lr",
            type=shared_options.NumberOrAuto("above 0"),
            metavar="F|auto",
            help="Peak learning rate; auto: found by a range test.  [default: by optimizer and batch]",
        ),
        click.option(
            "--weight-decay", type=float, metavar="F", help="Decoupled; not on BN and biases.  [default: by optimizer]"
        ),
        click.option("--schedule", metavar="KIND", help="cosine or constant.  [default: cosine]"),
        click.option("--warmup", type=float, metavar="F", help="Share of the steps that warm up.  [default: 0.1]"),
        click.option("--label-smoothing", type=float, metavar="F", help="[default: 0]"),
        click.option("--clip-norm", type=float, metavar="F", help="Clip the gradients' global norm."),
        click.option(
            "--patience", type=int, metavar="N", help="Stop after N epochs without a better validation accuracy."
        ),
        click.option(
            "--distribute",
            metavar="none|mirrored|multi-worker",
            help="mirrored: over the GPUs of this machine. multi-worker: over machines, each of which runs this "
            "command, as TF_CONFIG or Slurm says. --batch-size is that of all of them together.  [default: none]",
        ),
    ),
    "At the end": (
        click.option(
            "--ema",
            type=float,
            metavar="F",
            help="Average the weights, keeping the share F at every step, such as 0.999; BN statistics are "
            "recalibrated for the average, which is what model.keras holds.",
        ),
        click.option(
            "--tta",
            metavar="flip",
            help="Also score the averaged probabilities of every test image and its mirror image.",
        ),
        click.option(
            "--cache-features",
            metavar="auto|on|off",
            help="Compute what is frozen once per image, and keep it for other runs: where that pays and fits, or "
            "fail, or never.  [default: auto]",
        ),
        click.option(
            "--cache-precision", metavar="NAME", help="float32, or float16 in half the space.  [default: float32]"
        ),
        click.option(
            "--cache-budget",
            metavar="SIZE",
            help="What all cached features may take, such as 10GiB; the least recently used go first.  [default: a "
            "quarter of the free disk]",
        ),
    ),
    "The run": (
        click.option("--seed", type=int, metavar="N", help="[default: 0]"),
        click.option(
            "--deterministic", is_flag=True, default=None, help="Bit-identical repeats on one machine; slower."
        ),
        click.option(
            "--run-dir", type=shared_options.PATH, metavar="DIR", help="Directory of this run; must not exist."
        ),
        click.option(
            "--runs-dir",
            type=shared_options.PATH,
            metavar="DIR",
            default="runs",
            help="Where runs get a name.  [default: runs]",
        ),
    ),
}
