"""The plots of runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from finetune.reporting import svg

DRAWN = 7
"""Runs in one plot at most: the scheme has no more colours that are easy to tell apart."""
MODES = {
    "is_training_false": "is_training=False",
    "is_training_true": "is_training=True",
    "recalibrated": "recalibrated",
}
"""The three modes a network is evaluated in: the key in a report, and the label in a plot."""


def of_run(run: Mapping[str, Any], measure: str) -> Markup | None:
    """Training and validation `accuracy` or `loss` by epoch, and that of the test images at the end. None before the
    first epoch."""
    rows = run["epochs"]
    epochs = [row["epoch"] for row in rows]
    splits = {"train": "training", "validation": "validation"}
    lines = [(label, epochs, [row.get(f"{split}_{measure}") for row in rows]) for split, label in splits.items()]
    lines = [line for line in lines if any(value is not None for value in line[2])]
    if not lines:
        return None
    figure, plot = svg.lines(lines, x="epoch", y="accuracy" if measure == "accuracy" else "loss, nats")
    tested = run["test"]["is_training_false"][measure] if run["test"] else None
    if tested is not None:
        plot.axhline(tested, linestyle="--", linewidth=1, label="test, at the end", color=svg.COLOURS[2])
    return svg.svg(figure, f"{measure.capitalize()} by epoch: {run['name']}")


def learning_rate(run: Mapping[str, Any]) -> Markup | None:
    """The learning rate at the end of each epoch. None where it never changed."""
    rows = [row for row in run["epochs"] if row.get("learning_rate") is not None]
    if len({row["learning_rate"] for row in rows}) < 2:
        return None
    line = ("learning rate", [row["epoch"] for row in rows], [row["learning_rate"] for row in rows])
    figure, plot = svg.lines([line], x="epoch", y="learning rate", height=1.8, colours=svg.COLOURS[5:])
    plot.set_ylim(bottom=0)
    return svg.svg(figure, f"Learning rate by epoch: {run['name']}")


def statistics(run: Mapping[str, Any]) -> Markup | None:
    """Accuracy in the three modes, as `--diagnose-every` measured it during training. None without it."""
    rows = [row for row in run["epochs"] if isinstance(row.get("bn"), dict)]
    if not rows:
        return None
    epochs = [row["epoch"] for row in rows]
    lines = [(label, epochs, [row["bn"].get(mode) for row in rows]) for mode, label in MODES.items()]
    figure, _ = svg.lines(lines, x="epoch", y="accuracy")
    return svg.svg(figure, f"Held-out accuracy under three kinds of statistics: {run['name']}")


def of_runs(runs: Sequence[Mapping[str, Any]], measure: str, title: str) -> Markup | None:
    """One line for each of the first `DRAWN` runs that have the measure. None where no run has it."""
    lines = []
    for run in runs:
        values = [row.get(measure) for row in run["epochs"]]
        if any(value is not None for value in values):
            lines.append((_label(run["name"]), [row["epoch"] for row in run["epochs"]], values))
    if not lines:
        return None
    figure, _ = svg.lines(lines[:DRAWN], x="epoch", y=measure.replace("train_", "training ").replace("_", " "))
    return svg.svg(figure, title, ncols=1)


def _label(name: str) -> str:
    """A run's name in a legend. Matplotlib leaves out names with a leading underscore, so a space is put first."""
    short = name if len(name) <= 60 else f"{name[:28]}…{name[-28:]}"
    return f" {short}" if short.startswith("_") else short


def reliability(calibration: Mapping[str, Any]) -> Markup:
    """Accuracy by confidence. A perfectly calibrated model is on the diagonal. Below it: images by confidence."""
    bins = calibration["bins"]
    figure = svg.empty(height=4.0)
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    plot = svg.styled(figure.add_subplot(grid[0]), y="accuracy")
    below = svg.styled(figure.add_subplot(grid[1], sharex=plot), x="confidence", y="images")
    middle, width = [(one["low"] + one["high"]) / 2 for one in bins], 0.94 / len(bins)
    plot.bar(middle, [one["accuracy"] or 0.0 for one in bins], width, color=svg.COLOURS[0], label="accuracy")
    plot.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color=svg.INK)
    means = [one["confidence"] for one in bins if one["images"]]
    plot.plot(means, means, marker="o", markersize=4, linestyle="none", color=svg.COLOURS[1], label="mean confidence")
    below.bar(middle, [one["images"] for one in bins], width, color=svg.COLOURS[6])
    plot.set_xlim(0, 1)
    plot.set_ylim(0, 1.02)
    plot.tick_params(labelbottom=False)
    plot.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.xaxis.set_major_formatter(PercentFormatter(1.0))
    below.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    return svg.svg(figure, f"Reliability diagram: expected calibration error {calibration['expected_error']:.1%}")


def by_layer(layers: Sequence[Mapping[str, Any]], measures: Mapping[str, str], y: str) -> tuple[Figure, Axes]:
    """Measures of each BN layer, by their label in the legend, from the input to the output."""
    numbers = range(1, len(layers) + 1)
    lines = [(label, numbers, [layer.get(measure) for layer in layers]) for label, measure in measures.items()]
    return svg.lines(lines, x="BN layer, from the input to the output", y=y)


def drift(layers: Sequence[Mapping[str, Any]]) -> Markup:
    """Moving statistics compared with those of the training images, layer by layer."""
    measures = {"mean shift, in sigmas": "mean_shift", "log variance ratio": "log_variance_ratio"}
    figure, plot = by_layer(layers, measures, "drift")
    noise = svg.gaps([layer.get("batch_noise") for layer in layers])
    label = "spread of one batch's mean, in sigmas"
    plot.plot(range(1, len(layers) + 1), noise, linestyle=":", label=label, color=svg.COLOURS[6])
    plot.set_ylim(bottom=0)
    return svg.svg(figure, "Moving statistics against the training images' own, layer by layer", ncols=1)


def heat(table: Sequence[Sequence[int]]) -> Markup:
    """A confusion matrix of many classes as a picture: a darker cell is a larger share of its row's images."""
    counts = np.asarray(table, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, plot = svg.axes(height=4.4, x="predicted class", y="true class")
    picture = np.empty((*shares.shape, 4))
    picture[..., :3] = to_rgb(svg.COLOURS[0])
    # An empty cell is transparent, so the picture suits a white and a black page. The root makes small shares visible.
    picture[..., 3] = np.sqrt(shares)
    plot.imshow(picture, interpolation="nearest", aspect="equal")
    plot.grid(False)
    for axis in (plot.xaxis, plot.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return svg.svg(figure, f"Confusion matrix of {len(counts)} classes")


def range_test(test: Mapping[str, Any]) -> str:
    """An SVG from the contents of `lr_range.json`: loss over the rate, smoothed, and the rate that was chosen."""
    figure, axes = svg.axes(x="learning rate", y="loss of the batch (nats)")
    axes.plot(test["rates"], test["losses"], color=svg.COLOURS[6], linewidth=0.8, label="measured")
    axes.plot(test["rates"], test["smoothed"], color=svg.COLOURS[0], label="smoothed")
    lowest, chosen = test["lowest_at"], test["learning_rate"]
    axes.axvline(lowest, color=svg.COLOURS[1], linestyle=":", label=f"lowest, {lowest:.2g}")
    axes.axvline(chosen, color=svg.COLOURS[2], linestyle="--", label=f"chosen, {chosen:g}")
    axes.set_xscale("log")
    # The file is opened by itself, so there is no page whose colours it could take.
    drawing = str(svg.svg(figure, "Learning-rate range test"))
    return drawing.replace("<svg ", '<svg style="background: white; color: #222" ', 1) + "\n"
