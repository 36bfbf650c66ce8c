"""The curve of a learning-rate range test."""

from collections.abc import Mapping
from typing import Any

from finetune.reporting import svg


def plot(test: Mapping[str, Any]) -> str:
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
