"""What a run shows: progress on standard error, its result on standard output."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from finetune.cli.console import output_console, plain_table, progress_console
from finetune.config import TTA, RunConfig
from finetune.reporting.words import label_scores, others_moved, percent, scaling_words
from finetune.text import shape_of
from finetune.training.display import Display

if TYPE_CHECKING:
    from finetune.backbone.freezing import FreezePlan
    from finetune.runs.directory import RunDir

_STATISTICS = {"train": "batch, updating", "stats": "batch, updating", "freeze": "moving", "affine": "moving"}

_MARKS = {"learning_rate": "x ", "from_epoch": ""}


class ConsoleDisplay(Display):
    """A run's display: one bar, and a line per epoch. Without a terminal there are only the lines."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = progress_console(quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None
        self._evaluation: TaskID | None = None
        self._counts: dict[str, TaskID] = {}
        self._began = 0.0
        self._images = 0

    def say(self, text: str) -> None:
        """Print a line about what happens now."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print a concern that does not stop the run."""
        self._console.print(f"warning: {text}", style="yellow", markup=False)

    def plan(self, plan: "FreezePlan", config: RunConfig) -> None:
        """Print which layers of each stage are trainable, and which statistics its BN layers use."""
        stages, extra = plan.stages(), {"learning_rate": "rate", "from_epoch": "from epoch"}
        extra = {key: words for key, words in extra.items() if any(row.get(key) is not None for row in stages)}
        moves = "updating" if config.bn_updates == "on" else "NOT updating"
        rows = [
            (
                row["stage"],
                row["layers"],
                row["training"],
                sum(bn.values()) if bn else "",
                ", ".join(f"{name} {count}" if len(bn) > 1 else name for name, count in bn.items()),
                ", ".join(dict.fromkeys(_STATISTICS[name].replace("updating", moves) for name in bn)),
                *("" if row[key] is None else f"{_MARKS[key]}{row[key]:.3g}" for key in extra),
            )
            for row in stages
            for bn in [row["bn"]]
        ]
        texts = ("BN policy", "statistics", *extra.values())
        self._console.print(plain_table(("stage", "weight layers", "trainable", "BN layers", *texts), rows, left=texts))
        updates = "" if config.bn_updates == "on" else ", updates OFF (the forgotten UPDATE_OPS)"
        updates += ", batch renormalisation" if config.bn_renorm else ""
        updates += ", moving means debiased" if config.bn_zero_debias else ""
        decay = f"BN decay {config.bn_decay}{updates}, " if any(row["bn"] for row in stages) else ""
        rate = config.learning_rate if config.learning_rate == "auto" else f"{config.learning_rate:g}"
        self.say(
            f"{shape_of(config.image_size or 0)}, batch {config.batch_size}, {config.epochs} epochs, "
            f"{config.optimizer} {rate}, {decay}preprocessing {config.preprocess}"
        )

    def step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        """Move the bar of the training."""
        now = time.monotonic()
        if self._task is None:
            self._task = self._progress.add_task("", total=steps, completed=step, rate="")
            self._began = now
        self._images += images
        rate = f"{self._images / (now - self._began):.0f} images/s" if now > self._began else ""
        self._progress.update(
            self._task, completed=step, description=f"epoch {epoch} step {step}/{steps} loss {loss:.3f}", rate=rate
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """Print a line with the epoch's metrics."""
        validation = f"  validation {row['validation_accuracy']:.1%}" if "validation_accuracy" in row else ""
        validation += f" macro F1 {row['validation_macro_f1']:.1%}" if "validation_macro_f1" in row else ""
        validation += f" mAP {percent(row['validation_map'])}" if "validation_map" in row else ""
        mixed = " of mixed labels" if row.get("train_labels") == "mixed" else ""
        self.say(
            f"epoch {row['epoch']:3d}  train loss {row['train_loss']:.3f}  accuracy {row['train_accuracy']:.1%}{mixed}"
            f"{validation}  {row['images_per_second']:.0f} images/s"
        )
        if bn := row.get("bn"):
            self.say(
                f"           BatchNorm: {bn['cause']}  is_training=False {bn['is_training_false']:.1%}  "
                f"True {bn['is_training_true']:.1%}  recalibrated {bn['recalibrated']:.1%}"
            )

    def download(self, done: int, total: int | None) -> None:
        """Move the bar of a download, in bytes."""
        self._count("downloading", done, total, f"{done / 2**20:.0f} MiB")

    def on_scan(self, done: int, total: int | None) -> None:
        """Move the bar of the check of the images."""
        self._count("checking the images", done, total, f"{done} images")

    def features(self, done: int, total: int) -> None:
        """Move the bar of the features, in images."""
        self._count("computing features", done, total, f"{done} images")

    def _count(self, what: str, done: int, total: int | None, amount: str) -> None:
        """Move the bar named `what`; it is removed when it is full."""
        if what not in self._counts:
            self._counts[what] = self._progress.add_task(what, total=total, rate="")
        self._progress.update(self._counts[what], completed=done, total=total, rate=amount)
        if total is not None and done >= total:
            self._progress.remove_task(self._counts.pop(what))

    def batch(self) -> None:
        """Move the bar of an evaluation by one batch."""
        if self._evaluation is None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._evaluation = self._progress.add_task("evaluating", total=None, rate="")
        self._progress.advance(self._evaluation)

    @contextmanager
    def running(self) -> Iterator["ConsoleDisplay"]:
        """Inside, the bar is drawn."""
        with self._progress:
            yield self


def show_result(run: "RunDir", result: dict[str, Any]) -> None:
    """Print the end of a run: both accuracies, the proof of the freeze plan, where the files are."""
    test, bn, proof = result["test"], result["bn"], result["proof"]
    out = output_console()
    inference = test["is_training_false"]
    scores = f"{inference['accuracy']:.1%} (± {inference['standard_error']:.1%})   "
    if bn["layers"]:
        scores = f"is_training=False {scores}is_training=True {test['is_training_true']['accuracy']:.1%}   "
    out.print_fact("test accuracy", f"{scores}({inference['examples']} images)")
    if several := result.get("multi_label"):
        unknown = [
            name for name, one in zip(result["class_names"], several["average_precision"], strict=True) if one is None
        ]
        left_out = f", without {', '.join(unknown)}: no test image has them" if unknown else ""
        ranked = f"mean average precision {percent(inference['map'])}{left_out}"
        out.print_fact("by label", f"{ranked}; of single labels {percent(inference['label_accuracy'])} right")
        out.print_fact("at thresholds", label_scores(several["at_thresholds"]))
    elif inference.get("macro_f1") is not None:  # runs of earlier versions do not have it
        scores = f"macro F1 {inference['macro_f1']:.1%}   balanced accuracy {inference['balanced_accuracy']:.1%}"
        out.print_fact("by class", scores)
    if (weights := result.get("weights", {})).get("kind") == "averaged":
        last, before = weights["last_step"], weights.get("before_recalibration")
        how = f"--ema {weights['ema']:g}" if weights["ema"] else f"{weights['averaged_epochs']} epochs"
        was = f" (before: is_training=False {before['is_training_false']['accuracy']:.1%})" if before else ""
        out.print_fact(
            "weights",
            f"averaged ({how}), statistics {weights['statistics']}{was}; the last step's, "
            f"is_training=False {last['test']['is_training_false']['accuracy']:.1%}, are in {last['model']}",
        )
    if averaged := result.get("tta"):
        scored = averaged["is_training_false"]
        accuracy = f"{scored['accuracy']:.1%} (± {scored['standard_error']:.1%})"
        kind = averaged["kind"]
        out.print_fact(f"TTA {kind}", f"is_training=False {accuracy}, {TTA[kind]}")
    if scaling := result.get("temperature_scaling"):
        out.print_fact("calibration", scaling_words(scaling))
    if bn["layers"]:
        means = " (none in the means)" if bn["zero_debias"] and bn["updates"] else ""
        out.print_fact(
            "BatchNorm",
            f"decay {bn['decay']:g}, {bn['updates']} updates: {bn['residual']:.2g} of the starting statistics "
            f"left{means}{', recalibrated at the end' if bn['recalibrated'] else ''}",
        )
    each = [str(one["frozen_variables"]) for one in proof.get("phases", [])]
    phases = f"; frozen in each of {len(each)} phases: {', '.join(each)}" if each else ""
    frozen = f"{proof['frozen_variables']} frozen variables bit-identical"
    out.print_fact("proof", f"{frozen}, {others_moved(proof)}{phases}")
    out.print_fact("time", f"{result['train_seconds']:.0f} s training, peak {result['peak_memory_mib']:.0f} MiB")
    out.print_fact("run", str(run))
