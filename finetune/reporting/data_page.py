"""The page of `finetune data check`, and the sentences on labels and drift that the terminal prints too."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from finetune.reporting import svg
from finetune.reporting.rendering import render
from finetune.text import all_printable

_LISTED = 500
"""Images of one finding that the page names; the JSON names all."""
_DRAWN = 25
"""Classes up to which a plot shows how many images each has."""


def render_data_page(report: Mapping[str, Any], pictures: Mapping[str, Sequence[str]]) -> str:
    """The HTML of a `data_check.DataReport`."""
    report = all_printable(report)
    rows = [{**row, "pictured": sum("split" in one for one in row["listed"])} for row in report["findings"]]
    return render(
        "data.html",
        report={**report, "findings": rows},
        pictures=pictures,
        sentences=sentences(report),
        plot=_plot(report),
        listed=_LISTED,
    )


def sentences(report: Mapping[str, Any]) -> list[str]:
    """What the features of a backbone say of the labels, and of training against test images."""
    labels, drift = report["labels"], report["drift"]
    if "accuracy" in labels:
        some = f" of {labels['of']:,}" if labels["of"] > labels["images"] else ""
        first = (
            f"labels: a linear classifier on features of {labels['backbone']} agrees with {labels['accuracy']:.1%} of "
            f"the labels of {labels['images']:,}{some} images, none of which it was fitted to"
        )
    else:
        first = f"labels: not checked: {labels['reason']}"
    if "auc" not in drift:
        return [first, f"drift: not checked: {drift['reason']}"] if drift != labels else [first]
    alike = "training and test images differ" if drift["differs"] else "training and test images look alike"
    second = (
        f"drift: {alike}: a classifier that tells them apart has an AUC of {drift['auc']:.3f} (0.5: no better than "
        f"chance; by chance it stays below {drift['bound']:.3f} in 95 of 100 cases)"
    )
    return [first, second]


def _plot(report: Mapping[str, Any]) -> Markup | None:
    names = report["class_names"]
    if len(names) > _DRAWN:
        return None
    figure, plot = svg.axes(height=0.8 + 0.25 * len(names), x="images")
    left = [0] * len(names)
    for (split, counts), colour in zip(report["class_counts"].items(), svg.COLOURS, strict=False):
        plot.barh(range(len(names)), counts, 0.7, left=left, label=split, color=colour)
        left = [one + count for one, count in zip(left, counts, strict=True)]
    plot.set_yticks(range(len(names)), names)
    plot.invert_yaxis()
    plot.grid(axis="y", visible=False)
    return svg.svg(figure, "Images of each class")
