"""The command `finetune migrate`: flags of slim's scripts as a command of this tool, slim's scopes as its patterns."""

import math
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import click

from finetune.cli.shared_options import JSON, printed_json
from finetune.errors import WrongUse
from finetune.text import did_you_mean

_TRAIN, _EVALUATE = "train_image_classifier.py", "eval_image_classifier.py"
_DEFAULTS = {
    "model_name": "inception_v3",
    "batch_size": "32",
    "optimizer": "rmsprop",
    "learning_rate": "0.01",
    "learning_rate_decay_type": "exponential",
    "weight_decay": "0.00004",
}
"""Of slim's training script, where this tool has others. Source: research/slim/train_image_classifier.py."""
_OPTIONS = {
    "batch_size": "batch-size",
    "learning_rate": "learning-rate",
    "weight_decay": "l2",
    "moving_average_decay": "ema",
    "checkpoint_path": "checkpoint",
    "train_image_size": "image-size",
    "label_smoothing": "label-smoothing",
    "learning_rate_decay_factor": "decay-factor",
    "num_epochs_per_decay": "decay-epochs",
    "end_learning_rate": "end-learning-rate",
    "dataset_dir": "data",
}
"""Flags whose value stays as it is."""
_FIXED = {"rmsprop_decay": 0.9, "rmsprop_momentum": 0.9, "momentum": 0.9, "opt_epsilon": 1.0}
"""Flags for which this tool has slim's default and no other value."""
_SCHEDULES = {"fixed": "constant", "exponential": "exponential", "polynomial": "polynomial"}
_PREPROCESSINGS = {"vgg": "vgg", "resnet": "vgg", "cifarnet": "per-image", "lenet": "scale=1/128,mean=1"}
"""By how the name of a preprocessing or network begins; `inception` for every other."""
_IMAGES = {"flowers": 3320, "cifar10": 50_000, "mnist": 60_000, "imagenet": 1_281_167}
"""Training images of slim's data sets."""
_NOTES = {
    "train_dir": "train_dir: a run gets a directory of its own under runs/, or --run-dir; --resume RUN continues it",
    "ignore_missing_vars": "ignore_missing_vars: loading is strict; a file that lacks variables is refused, by name",
    "quantize_delay": "quantize_delay: there is no quantisation-aware training here",
    "use_grayscale": "use_grayscale: give --image-size HEIGHTxWIDTHx1 for grey images",
    "labels_offset": "labels_offset: labels that start at 1 are seen; --background-class keeps class 0",
}
_NOT_NEEDED = (
    *("master", "clone_on_cpu", "num_ps_tasks", "num_readers", "num_preprocessing_threads", "log_every_n_steps"),
    *("save_summaries_secs", "save_interval_secs", "task", "sync_replicas", "replicas_to_aggregate", "eval_dir"),
    *("max_num_batches", "quantize", "dataset_name", "dataset_split_name", "num_clones", "worker_replicas"),
    *("preprocessing_name", "trainable_scopes", "checkpoint_exclude_scopes", "max_number_of_steps", "eval_image_size"),
    *("adam_beta1", "adam_beta2", "adagrad_initial_accumulator_value", "adadelta_rho", "ftrl_l1", "ftrl_l2"),
    *("ftrl_learning_rate_power", "ftrl_initial_accumulator_value"),
)
_KNOWN = {*_DEFAULTS, *_OPTIONS, *_FIXED, *_NOTES, *_NOT_NEEDED}


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[SCRIPT] --FLAG=VALUE...")
@JSON
def migrate(words: tuple[str, ...]) -> None:
    """Print the command that does what a script of slim does with these flags.

    SCRIPT is train_image_classifier.py, the default, or eval_image_classifier.py. What has no counterpart is said on
    standard error.

    \b
    finetune migrate train_image_classifier.py --model_name=resnet_v1_50 \\
      --checkpoint_path=resnet_v1_50.ckpt --trainable_scopes=resnet_v1_50/logits --dataset_dir=photos/
    """
    script, flags = _read(words)
    command, notes = _evaluation(flags) if script == _EVALUATE else _training(flags)
    if printed_json({"command": command, "notes": notes}):
        return
    click.echo(shlex.join(command))
    for note in notes:
        click.echo(note, err=True)


def _read(words: Sequence[str]) -> tuple[str, dict[str, str]]:
    """(the script, its flags), as absl reads them: `--flag=value`, `--flag value`, `--flag`, `--noflag`."""
    script, flags, rest = _TRAIN, dict[str, str](), list(words)
    while rest and not rest[0].startswith("-"):
        word = rest.pop(0)
        script = _EVALUATE if word.endswith(_EVALUATE) else script
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            raise WrongUse(f"'{word}' is no flag: expected --FLAG=VALUE, as slim's scripts take them")
        name, separator, value = word.lstrip("-").partition("=")
        if name not in _KNOWN and name.removeprefix("no") in _KNOWN:
            name, separator, value = name.removeprefix("no"), "=", "False"
        if name not in _KNOWN:
            hint = did_you_mean(name, _KNOWN) or "it is none of slim's; "
            raise WrongUse(f"unknown flag --{name}: {hint}expected flags of {_TRAIN} or {_EVALUATE}")
        if not separator:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "True"
        flags[name] = value
    return script, flags


def _training(flags: dict[str, str]) -> tuple[list[str], list[str]]:
    given = _DEFAULTS | flags
    model, optimizer = given["model_name"], given["optimizer"]
    command = ["finetune", "run", "--backbone", _row(model).id]
    notes = [note for name, note in _NOTES.items() if flags.get(name, "False") not in ("False", "0")]
    command += [word for name, option in _OPTIONS.items() if name in given for word in (f"--{option}", given[name])]
    if "train_image_size" not in flags:  # slim's default_image_size; ResNet v2 was published for larger ones
        command += ["--image-size", "224" if model.startswith("resnet_v2") else str(_row(model).image_size)]
    if "dataset_dir" not in flags:
        notes.append("dataset_dir: give the folder of TFRecords with --data")
    if optimizer in ("rmsprop", "momentum"):
        command += ["--optimizer", optimizer]
    elif optimizer == "adam":
        command += ["--optimizer", "adamw", "--weight-decay", "0"]
        notes.append("optimizer adam: here its epsilon is 1e-7, in slim --opt_epsilon, which is 1 by default")
    else:
        command += ["--optimizer", "momentum"]
        notes.append(f"optimizer {optimizer}: there is none here; momentum is the nearest")
    command += ["--schedule", _one_of(_SCHEDULES, given["learning_rate_decay_type"], "learning_rate_decay_type")]
    notes += [
        f"{name}: it is {value:g} here, not {flags[name]}"
        for name, value in _FIXED.items()
        if name in flags and _number(name, flags[name]) != value
    ]
    command += _preprocessing(flags, model)
    if _number("num_clones", flags.get("num_clones", "1")) > 1:
        command += ["--distribute", "mirrored"]
    if _number("worker_replicas", flags.get("worker_replicas", "1")) > 1:
        command += ["--distribute", "multi-worker"]
        notes.append("worker_replicas: start the command once on each machine (docs/distributed.md)")
    command += _epochs(flags, _number("batch_size", given["batch_size"]), notes)
    if "trainable_scopes" in flags:
        rules, said = freeze_rules(flags["trainable_scopes"], model)
        command += [word for rule in rules for word in ("--freeze", rule)]
        notes.append(said)
    if "checkpoint_exclude_scopes" in flags:
        notes.append(excluded(flags["checkpoint_exclude_scopes"], model))
    return command, notes


def _evaluation(flags: dict[str, str]) -> tuple[list[str], list[str]]:
    model = flags.get("model_name", "inception_v3")
    command = ["finetune", "evaluate", "--backbone", _row(model).id]
    command += ["--checkpoint", flags.get("checkpoint_path", "train_dir/")]
    command += ["--data", flags.get("dataset_dir", "data/"), "--batch-size", flags.get("batch_size", "100")]
    command += ["--eval-recipe", "published", *_preprocessing(flags, model)]
    if "eval_image_size" in flags:
        command += ["--image-size", flags["eval_image_size"]]
    if flags.get("moving_average_decay"):
        command.append("--ema")
    return command, ["'finetune diagnose-bn' with the same options compares is_training=True with False"]


def _preprocessing(flags: dict[str, str], model: str) -> list[str]:
    """`--preprocess`, where slim would take another than this tool does for the network."""
    name = flags.get("preprocessing_name", model)
    wanted = next((ours for begin, ours in _PREPROCESSINGS.items() if name.startswith(begin)), "inception")
    return [] if wanted == _row(model).preprocessing else ["--preprocess", wanted]


def _epochs(flags: dict[str, str], batch_size: float, notes: list[str]) -> list[str]:
    if "max_number_of_steps" not in flags:
        notes.append("max_number_of_steps: slim trains without end; here the number of epochs is chosen, or --epochs N")
        return []
    steps = _number("max_number_of_steps", flags["max_number_of_steps"])
    images = _IMAGES.get(flags.get("dataset_name", ""))
    if images is None:
        notes.append(f"max_number_of_steps: give --epochs N, N = {steps:g} x {batch_size:g} / your training images")
        return []
    return ["--epochs", str(max(math.ceil(steps * batch_size / images), 1))]


def freeze_rules(scopes: str, model: str) -> tuple[list[str], str]:
    """(patterns for `--freeze` that let only these scopes of slim train, a sentence that says so)."""
    rules = [f"{scope}*=train" for scope in _scopes(scopes) if not _of_head(scope, model)]
    written = " ".join(f"--freeze {shlex.quote(rule)}" for rule in [*rules, "*"])
    return [*rules, "*"], (
        f"trainable_scopes: here {written}; the new head always trains. The other layers' moving statistics stay, "
        "which slim's update operations still move"
    )


def excluded(scopes: str, model: str) -> str:
    """What these scopes mean here, a sentence. WrongUse where one is not of the head: all else is loaded."""
    others = [scope for scope in _scopes(scopes) if not _of_head(scope, model)]
    if others:
        raise WrongUse(
            f"checkpoint_exclude_scopes {','.join(others)}: everything but the head is loaded, strictly; train from "
            "random weights with --from-scratch, or leave these scopes out"
        )
    return "checkpoint_exclude_scopes: not needed: a new head replaces the file's, and load.json lists what is ignored"


def _scopes(scopes: str) -> Iterator[str]:
    return (scope.strip() for scope in scopes.split(",") if scope.strip())


def _of_head(scope: str, model: str) -> bool:
    row = _row(model)
    return any(f"{scope}/".startswith(pattern.rstrip("*")) for pattern in (*row.head, *row.auxiliary))


def _row(model: str) -> Any:
    from checkpoints.catalog.lookup import find_row
    from checkpoints.errors import UnknownBackbone

    try:
        return find_row(model if "/" in model else f"slim/{model}")
    except UnknownBackbone:
        return find_row(model)  # its error names what is near


def _one_of(choices: dict[str, str], value: str, name: str) -> str:
    if value not in choices:
        raise WrongUse(f"--{name}={value}: {did_you_mean(value, choices)}expected one of {', '.join(choices)}")
    return choices[value]


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise WrongUse(f"--{name}={value}: expected a number") from None
