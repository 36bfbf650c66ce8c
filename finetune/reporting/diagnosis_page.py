"""A diagnosis as a page. It is made from the JSON report (docs/diagnosis.md), so an old `bn.json` has one too."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from finetune.reporting import curves, svg
from finetune.reporting.curves import MODES
from finetune.reporting.html import render

_SPLITS = {"test": "test images", "train": "training subset"}


def render_diagnosis_page(report: Mapping[str, Any]) -> str:
    """The HTML of `diagnose-bn --html`. `report` is what `--json` prints."""
    return render(
        "diagnosis.html",
        report=report,
        modes=MODES,
        splits=_SPLITS,
        accuracy=_accuracy(report),
        drift=curves.drift(report["layers"]),
        shares=_shares(report),
        by_layer=_share_by_layer(report),
        batch_sizes=_batch_sizes(report),
        preprocessing=_preprocessing(report),
    )


def _accuracy(report: Mapping[str, Any]) -> Markup:
    series = {words: [report["accuracy"][split][mode] for split in _SPLITS] for mode, words in MODES.items()}
    return svg.bars(
        list(_SPLITS.values()), series, y="accuracy", percent=True, title="Accuracy under three kinds of statistics"
    )


def _shares(report: Mapping[str, Any]) -> Markup | None:
    """The fitted share of each start, and decay^updates where it is known."""
    shares = report.get("shares") or []
    if not shares:
        return None
    fitted = [share["share"] for share in shares]
    series: dict[str, list[float | None]] = {"fitted from the arrays": fitted}
    if report.get("residual") is not None:
        series["decay^updates"] = [report["residual"]] * len(shares)
    names = [f"{share['origin']} statistics" for share in shares]
    return svg.bars(names, series, y="share left", percent=True, title="Share of the starting statistics left")


def _share_by_layer(report: Mapping[str, Any]) -> Markup | None:
    values = [layer.get("share") for layer in report["layers"]]
    if all(value is None for value in values):
        return None
    return svg.lines(
        range(1, len(values) + 1),
        {"share left": values},
        x_label="BN layer, from the input to the output",
        y="share left",
        title="Share of the starting statistics left, layer by layer",
    )


def _batch_sizes(report: Mapping[str, Any]) -> Markup | None:
    batches = report.get("batches")
    if not batches:
        return None
    sizes = [int(size) for size in batches["is_training_true_by_size"]]
    accuracies = list(batches["is_training_true_by_size"].values())
    flat = [batches["is_training_false"]] * len(sizes)
    return svg.lines(
        sizes,
        {"is_training=True": accuracies, "is_training=False": flat},
        x_label="batch size",
        y="accuracy",
        title="Accuracy by batch size",
        log_x=True,
    )


def _preprocessing(report: Mapping[str, Any]) -> Markup | None:
    check = report.get("preprocessing")
    if not check or not check["trials"]:
        return None
    trials = check["trials"]
    return svg.bars(
        [trial["name"] for trial in trials],
        {"is_training=False": [trial["accuracy"] for trial in trials]},
        y="accuracy",
        percent=True,
        title="Accuracy under each way to feed pixels",
    )
