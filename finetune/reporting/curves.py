"""The plots of runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, PercentFormatter

from finetune.reporting import svg

DRAWN = 7
"""Runs in one plot at most: there are no more colours that are told apart."""
_SPLITS = {"train": "training", "validation": "validation"}


def of_run(run: Mapping[str, Any], measure: str) -> Markup | None:
    """Training and validation `accuracy` or `loss` by epoch, and the test images' at the end; None before an epoch."""
    rows = run["epochs"]
    series = {words: [row.get(f"{split}_{measure}") for row in rows] for split, words in _SPLITS.items()}
    series = {words: values for words, values in series.items() if any(value is not None for value in values)}
    if not rows or not series:
        return None
    figure, plot = svg.axes(x="epoch", y="accuracy" if measure == "accuracy" else "loss, nats")
    epochs = [row["epoch"] for row in rows]
    for index, (words, values) in enumerate(series.items()):
        plot.plot(epochs, _gaps(values), **_marks(values), label=words, color=svg.COLOURS[index])
    if run["test"]:
        tested = run["test"]["is_training_false"][measure]
        if tested is not None:
            plot.axhline(tested, linestyle="--", linewidth=1, label="test, at the end", color=svg.COLOURS[2])
    if measure == "accuracy":
        plot.yaxis.set_major_formatter(PercentFormatter(1.0))
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    svg.legend(plot)
    return svg.svg(figure, f"{measure.capitalize()} by epoch: {run['name']}")


def learning_rate(run: Mapping[str, Any]) -> Markup | None:
    """At the end of each epoch; None where it never changed."""
    rows = [row for row in run["epochs"] if row.get("learning_rate") is not None]
    if len({row["learning_rate"] for row in rows}) < 2:
        return None
    figure, plot = svg.axes(height=1.8, x="epoch", y="learning rate")
    values = [row["learning_rate"] for row in rows]
    plot.plot([row["epoch"] for row in rows], values, **_marks(values), color=svg.COLOURS[5])
    plot.set_ylim(bottom=0)
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    return svg.svg(figure, f"Learning rate by epoch: {run['name']}")


def statistics(run: Mapping[str, Any]) -> Markup | None:
    """The checkups of `--diagnose-every`: accuracy under the three kinds of statistics; None where there were none."""
    rows = [row for row in run["epochs"] if isinstance(row.get("bn"), dict)]
    if not rows:
        return None
    figure, plot = svg.axes(x="epoch", y="accuracy")
    ways = {
        "is_training_false": "is_training=False",
        "is_training_true": "is_training=True",
        "recalibrated": "recalibrated",
    }
    for index, (way, words) in enumerate(ways.items()):
        values = [row["bn"].get(way) for row in rows]
        plot.plot([row["epoch"] for row in rows], _gaps(values), marker="o", markersize=4, label=words,
                  color=svg.COLOURS[index])  # fmt: skip
    plot.yaxis.set_major_formatter(PercentFormatter(1.0))
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    svg.legend(plot)
    return svg.svg(figure, f"Held-out accuracy under three kinds of statistics: {run['name']}")


def of_runs(runs: Sequence[Mapping[str, Any]], measure: str, title: str) -> Markup | None:
    """A line a run, of the first few; None where no run has the measure."""
    having = [run for run in runs if any(row.get(measure) is not None for row in run["epochs"])]
    if not having:
        return None
    percent = measure.endswith("accuracy")
    figure, plot = svg.axes(x="epoch", y=measure.replace("train_", "training ").replace("_", " "))
    for index, run in enumerate(having[:DRAWN]):
        values = [row.get(measure) for row in run["epochs"]]
        epochs = [row["epoch"] for row in run["epochs"]]
        plot.plot(epochs, _gaps(values), **_marks(values), label=_label(run["name"]), color=svg.COLOURS[index])
    if percent:
        plot.yaxis.set_major_formatter(PercentFormatter(1.0))
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    svg.legend(plot, columns=1)
    return svg.svg(figure, title)


def reliability(calibration: Mapping[str, Any]) -> Markup:
    """Accuracy by confidence over the diagonal of a model that is as sure as it is right; below, how many images."""
    bins = calibration["bins"]
    figure = svg.empty(height=4.0)
    places = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    plot = svg.dressed(figure.add_subplot(places[0]), y="accuracy")
    below = svg.dressed(figure.add_subplot(places[1], sharex=plot), x="confidence", y="images")
    middle, width = [(one["low"] + one["high"]) / 2 for one in bins], 0.94 / len(bins)
    plot.bar(middle, [one["accuracy"] or 0.0 for one in bins], width, color=svg.COLOURS[0], label="accuracy")
    full = [one for one in bins if one["images"]]
    plot.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color=svg.INK)
    plot.plot([one["confidence"] for one in full], [one["confidence"] for one in full], marker="o", markersize=4,
              linestyle="none", color=svg.COLOURS[1], label="mean confidence")  # fmt: skip
    below.bar(middle, [one["images"] for one in bins], width, color=svg.COLOURS[6])
    plot.set_xlim(0, 1)
    plot.set_ylim(0, 1.02)
    plot.tick_params(labelbottom=False)
    plot.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.xaxis.set_major_formatter(PercentFormatter(1.0))
    below.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    svg.legend(plot)
    return svg.svg(figure, f"Reliability diagram: expected calibration error {calibration['expected_error']:.1%}")


def drift(layers: Sequence[Mapping[str, Any]]) -> Markup:
    """Moving statistics against the training images' own, layer by layer."""
    figure, plot = svg.axes(x="BN layer, from the input to the output", y="drift")
    places = range(1, len(layers) + 1)
    for index, (key, words) in enumerate(
        (("mean_shift", "mean shift, in sigmas"), ("log_variance_ratio", "log variance ratio"))
    ):
        values = _gaps([layer.get(key) for layer in layers])
        plot.plot(places, values, marker="o", markersize=3, label=words, color=svg.COLOURS[index])
    noise = _gaps([layer.get("batch_noise") for layer in layers])
    plot.plot(places, noise, linestyle=":", label="spread of one batch's mean, in sigmas", color=svg.COLOURS[6])
    plot.set_ylim(bottom=0)
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    svg.legend(plot, columns=1)
    return svg.svg(figure, "Moving statistics against the training images' own, layer by layer")


def heat(table: Sequence[Sequence[int]]) -> Markup:
    """A confusion matrix of many classes as a picture: the darker, the larger the share of the row's images."""
    counts = np.asarray(table, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, plot = svg.axes(height=4.4, x="taken for class", y="true class")
    red, green, blue = (int(svg.COLOURS[0][place : place + 2], 16) / 255 for place in (1, 3, 5))
    # Transparent where there is nothing, so that it is right on white and on black; the root shows what is rare.
    picture = np.stack([np.full_like(shares, red), np.full_like(shares, green), np.full_like(shares, blue),
                        np.sqrt(shares)], axis=-1)  # fmt: skip
    plot.imshow(picture, interpolation="nearest", aspect="equal")
    plot.grid(False)
    for axis in (plot.xaxis, plot.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return svg.svg(figure, f"Confusion matrix of {len(counts)} classes")


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _marks(values: Sequence[Any]) -> dict[str, Any]:
    return {"marker": "o" if len(values) <= 40 else None, "markersize": 4}


def _label(name: str) -> str:
    """Matplotlib leaves names with a leading underscore out of a legend."""
    short = name if len(name) <= 60 else f"{name[:28]}…{name[-28:]}"
    return f" {short}" if short.startswith("_") else short


def range_test(test: Mapping[str, Any]) -> str:
    """An SVG from the contents of `lr_range.json`: loss over the rate, smoothed, and the rate that was chosen."""
    figure, axes = svg.axes(x="learning rate", y="loss of the batch (nats)")
    axes.plot(test["rates"], test["losses"], color=svg.COLOURS[6], linewidth=0.8, label="measured")
    axes.plot(test["rates"], test["smoothed"], color=svg.COLOURS[0], label="smoothed")
    lowest, chosen = test["lowest_at"], test["learning_rate"]
    axes.axvline(lowest, color=svg.COLOURS[1], linestyle=":", label=f"lowest, {lowest:.2g}")
    axes.axvline(chosen, color=svg.COLOURS[2], linestyle="--", label=f"chosen, {chosen:g}")
    axes.set_xscale("log")
    svg.legend(axes)
    # On its own, the drawing has no page whose colours it could take.
    drawing = str(svg.svg(figure, "Learning-rate range test"))
    return drawing.replace("<svg ", '<svg style="background: white; color: #222" ', 1) + "\n"
