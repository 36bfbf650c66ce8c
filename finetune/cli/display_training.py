"""What a person sees: progress on standard error, tables on standard output."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from finetune.cli.console import Console
from finetune.config import RunConfig
from finetune.reporting.words import others_moved

if TYPE_CHECKING:
    from finetune.backbone.freezing import FreezePlan
    from finetune.runs.directory import RunDir

_STATISTICS = {"train": "batch, updating", "stats": "batch, updating", "freeze": "moving", "affine": "moving"}

_MARKS = {"learning_rate": "x ", "from_epoch": ""}


class ConsoleDisplay:
    """A run's display: one bar, a line per epoch. Without a terminal the bar is left out, the lines stay."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
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
        self._download: TaskID | None = None
        self._looking: TaskID | None = None
        self._features: TaskID | None = None
        self._rate: tuple[float, int] | None = None

    def say(self, text: str) -> None:
        """A line about what happens now."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """A concern that does not stop the run."""
        self._console.print(f"warning: {text}", style="yellow", markup=False)

    def plan(self, plan: "FreezePlan", config: RunConfig) -> None:
        """What trains and which statistics each stage uses."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        counts = ("weight layers", "that train", "BN layers")
        rows, extra = plan.stages(), {"learning_rate": "rate", "from_epoch": "from epoch"}
        extra = {key: words for key, words in extra.items() if any(row.get(key) is not None for row in rows)}
        for column in ("stage", *counts, "BN policy", "statistics", *extra.values()):
            table.add_column(column, justify="right" if column in counts else "left", no_wrap=column == "statistics")
        moves = "updating" if config.bn_updates == "on" else "NOT updating"
        for row in rows:
            bn = row["bn"]
            table.add_row(
                row["stage"],
                str(row["layers"]),
                str(row["training"]),
                str(sum(bn.values())) if bn else "",
                ", ".join(f"{name} {count}" if len(bn) > 1 else name for name, count in bn.items()),
                ", ".join(dict.fromkeys(_STATISTICS[name].replace("updating", moves) for name in bn)),
                *("" if row[key] is None else f"{_MARKS[key]}{row[key]:.3g}" for key in extra),
            )
        self._console.print(table)
        updates = "" if config.bn_updates == "on" else ", updates OFF (the forgotten UPDATE_OPS)"
        updates += ", batch renormalisation" if config.bn_renorm else ""
        updates += ", moving means debiased" if config.bn_zero_debias else ""
        rate = config.learning_rate if config.learning_rate == "auto" else f"{config.learning_rate:g}"
        self.say(
            f"{config.image_size} px, batch {config.batch_size}, {config.epochs} epochs, {config.optimizer} "
            f"{rate}, BN decay {config.bn_decay}{updates}, preprocessing {config.preprocess}"
        )

    def step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        """Move the bar."""
        now = time.monotonic()
        if self._task is None:
            self._task, self._rate = self._progress.add_task("", total=steps, completed=step, rate=""), (now, 0)
        assert self._rate is not None
        since, seen = self._rate
        seen += images
        self._rate = (since, seen)
        rate = f"{seen / (now - since):.0f} images/s" if now > since else ""
        self._progress.update(
            self._task, completed=step, description=f"epoch {epoch} step {step}/{steps} loss {loss:.3f}", rate=rate
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """One line."""
        validation = f"  validation {row['validation_accuracy']:.1%}" if "validation_accuracy" in row else ""
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
        """Move the download's bar."""
        if self._download is None:
            self._download = self._progress.add_task("downloading", total=total, rate="")
        self._progress.update(self._download, completed=done, total=total, rate=f"{done / 2**20:.0f} MiB")
        if total is not None and done >= total:
            self._progress.remove_task(self._download)
            self._download = None

    def on_scan(self, done: int, total: int | None) -> None:
        """Move the bar of the look through the photos."""
        if self._looking is None:
            self._looking = self._progress.add_task("looking through the images", total=total, rate="")
        self._progress.update(self._looking, completed=done, total=total, rate=f"{done} images")
        if total is not None and done >= total:
            self._progress.remove_task(self._looking)
            self._looking = None

    def features(self, done: int, total: int) -> None:
        """Move the bar of the features."""
        if self._features is None:
            self._features = self._progress.add_task("computing features", total=total, rate="")
        self._progress.update(self._features, completed=done, total=total, rate=f"{done} images")
        if done >= total:
            self._progress.remove_task(self._features)
            self._features = None

    def batch(self) -> None:
        """One more batch of an evaluation."""
        if self._evaluation is None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._evaluation = self._progress.add_task("evaluating", total=None, rate="")
        self._progress.advance(self._evaluation)

    @contextmanager
    def running(self) -> Iterator["ConsoleDisplay"]:
        """The bar lives inside."""
        with self._progress:
            yield self


def console_display(*, quiet: bool) -> Any:
    """A context manager that gives the display of a command."""
    return ConsoleDisplay(quiet=quiet).running()


def show_result(run: "RunDir", result: dict[str, Any]) -> None:
    """The end of a run: both accuracies, the proof, where the files are."""
    test, bn, proof = result["test"], result["bn"], result["proof"]
    out = Console(highlight=False, soft_wrap=True)
    error = test["is_training_false"]["standard_error"]
    out.print(
        f"test accuracy  is_training=False {test['is_training_false']['accuracy']:.1%} (± {error:.1%})   "
        f"is_training=True {test['is_training_true']['accuracy']:.1%}   "
        f"({test['is_training_false']['examples']} images)"
    )
    if (weights := result.get("weights", {})).get("kind") == "averaged":
        last = weights["last_step"]
        out.print(
            f"weights        averaged (--ema {weights['ema']:g}), statistics {weights['statistics']}; the last step's, "
            f"is_training=False {last['test']['is_training_false']['accuracy']:.1%}, are in {last['model']}"
        )
    if averaged := result.get("tta"):
        scored = averaged["is_training_false"]
        out.print(
            f"test-time flip is_training=False {scored['accuracy']:.1%} (± {scored['standard_error']:.1%}), averaged "
            "with the mirror images"
        )
    if bn["layers"]:
        means = " (of the means nothing)" if bn["zero_debias"] and bn["updates"] else ""
        out.print(
            f"BatchNorm      decay {bn['decay']:g}, {bn['updates']} updates: {bn['residual']:.2g} of the starting "
            f"statistics left{means}{', recalibrated at the end' if bn['recalibrated'] else ''}"
        )
    each = [str(one["frozen_variables"]) for one in proof.get("phases", [])]
    phases = f"; frozen in each of {len(each)} phases: {', '.join(each)}" if each else ""
    out.print(
        f"proof          {proof['frozen_variables']} frozen variables bit-identical, {others_moved(proof)}{phases}"
    )
    out.print(f"time           {result['train_seconds']:.0f} s training, peak {result['peak_memory_mib']:.0f} MiB")
    out.print(f"run            {run}", markup=False)
