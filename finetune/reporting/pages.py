"""Pages of runs and of diagnoses.

Both are made from the JSON report (docs/report.md, docs/diagnosis.md), so old reports have pages too.
"""

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from markupsafe import Markup

from finetune.reporting import curves, svg, words
from finetune.reporting.pictures import as_seen
from finetune.reporting.rendering import render
from finetune.reporting.snippets import SNIPPETS
from finetune.text import all_printable

HEAT_CLASSES = 25
"""With more classes the confusion matrix is a picture: a table of it would be unreadable."""
LISTED_CLASSES = 40
"""With more classes the table of all of them is folded, below the ones with the lowest F1."""
_TRIALS = 8
"""Preprocessings in the plot: the present one and the best others of some thirty."""
_TOGETHER = {"validation_accuracy": "Validation accuracy by epoch", "train_loss": "Training loss by epoch"}
"""Plots with a line for each of several runs: the measure, and the title."""
_SPLITS = {"test": "test images", "train": "training subset"}


def render_run_page(
    report: Mapping[str, Any],
    pictures: Mapping[str, Sequence[str]],
    augmented: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType({}),
    heat_maps: Mapping[str, tuple[str, Sequence[str]]] = MappingProxyType({}),
) -> str:
    """The HTML of `finetune report --html`. `report` is what `--json` prints; `pictures` has a data URI for each
    mistake of a run, by the run's name; `augmented` has (data URI, label) of some augmented training images;
    `heat_maps` (layer, a data URI for each of the pictures)."""
    shown = all_printable(report)
    runs = [
        {**run, "drawn": _drawn(run), "pictures": pictures.get(raw["name"], [])}
        | {"augmented": augmented.get(raw["name"], []), "heat_maps": heat_maps.get(raw["name"]), **_added(run)}
        for run, raw in zip(shown["runs"], report["runs"], strict=True)
    ]
    return render(
        "report.html",
        report=shown,
        runs=runs,
        several=len(runs) > 1,
        few_trials=words.FEW_TRIALS,
        pooled=any(len(group["runs"]) > 1 for group in shown["groups"]),
        together=_together(runs) if len(runs) > 1 else [],
        drawn=curves.DRAWN,
        by_class=_by_class(runs) if len(runs) > 1 else None,
    )


def _added(run: Mapping[str, Any]) -> dict[str, Any]:
    """Texts made of a run's values: quoted paths for the shell, and one table of the environment and its packages."""
    environment = dict(run["environment"])
    packages = environment.pop("packages", None) or {}
    environment |= {name: version or "not installed" for name, version in packages.items()}
    path, counts = run["path"], (run["data"].get("class_counts") or {}).get("training") or []
    names = run["data"].get("class_names") or []
    by_size = sorted(zip(counts, names, strict=False))
    where = ["--data-dir", run["config"]["data_dir"]] if run["config"].get("data_dir") else []
    return {
        "check_command": shlex.join(["finetune", "data", "check", str(run["config"].get("data")), *where]),
        "sizes": (by_size[0], by_size[-1]) if by_size else None,
        "quoted": shlex.quote(path),
        "quoted_config": shlex.quote(f"{path}/config.json"),
        "environment": environment,
    }


def _drawn(run: Mapping[str, Any]) -> dict[str, Any]:
    """The plots of one run; None where there is nothing to draw."""
    return {
        "accuracy": curves.of_run(run, "accuracy"),
        "loss": curves.of_run(run, "loss"),
        "rate": curves.learning_rate(run),
        "statistics": curves.statistics(run),
        "reliability": curves.reliability(run["calibration"]) if run.get("calibration") else None,
        "scaled": curves.reliability(run["temperature_scaling"]["test"]["after"])
        if run.get("temperature_scaling")
        else None,
        "drift": curves.drift(run["diagnosis"]["layers"]) if (run.get("diagnosis") or {}).get("layers") else None,
        "confusion": curves.heat(run["confusion"]) if len(run.get("confusion") or []) > HEAT_CLASSES else None,
        "heat": [[count / max(sum(row), 1) for count in row] for row in run.get("confusion") or []],
        "worst": _worst(run.get("classes") or []),
    }


def _worst(classes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    tested = [one for one in classes if one["images"]]
    return sorted(tested, key=lambda one: one["f1"] or 0.0)[:15] if len(classes) > LISTED_CLASSES else []


def _together(runs: Sequence[Mapping[str, Any]]) -> list[Markup]:
    return [plot for measure, title in _TOGETHER.items() if (plot := curves.of_runs(runs, measure, title))]


def _by_class(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """F1 of every class in every run. None where the runs have other classes than each other, or too many to read."""
    known = [run for run in runs if run.get("classes")]
    names = [[one["name"] for one in run["classes"]] for run in known]
    if len(known) < 2 or any(one != names[0] for one in names) or len(names[0]) > LISTED_CLASSES:
        return None
    rows = [(name, [run["classes"][label]["f1"] for run in known]) for label, name in enumerate(names[0])]
    return {"runs": [run["name"] for run in known], "rows": rows}


def render_diagnosis_page(report: Mapping[str, Any], fed: Mapping[str, np.ndarray] | None = None) -> str:
    """The HTML of `diagnose-bn --html`. `report` is what `--json` prints; `fed`: a few images under the current
    preprocessing and the best, by name, where there is a better one."""
    return render(
        "diagnosis.html",
        report=report,
        snippets=SNIPPETS.get(report["verdict"]["cause"], {}),
        modes=curves.MODES,
        splits=_SPLITS,
        accuracy=_accuracy(report),
        drift=curves.drift(report["layers"]),
        shares=_shares(report),
        by_layer=_share_by_layer(report),
        batch_sizes=_batch_sizes(report),
        preprocessing=_preprocessing(report),
        pictures=as_seen(fed, report["preprocessing"]["best"]) if fed else {},
    )


def _accuracy(report: Mapping[str, Any]) -> Markup:
    series = {words: [report["accuracy"][split][mode] for split in _SPLITS] for mode, words in curves.MODES.items()}
    return svg.bars(list(_SPLITS.values()), series, y="accuracy", title="Accuracy under three kinds of statistics")


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
    return svg.bars(names, series, y="share left", title="Share of the starting statistics left")


def _share_by_layer(report: Mapping[str, Any]) -> Markup | None:
    if all(layer.get("share") is None for layer in report["layers"]):
        return None
    figure, _ = curves.by_layer(report["layers"], {"share left": "share"}, "share left")
    return svg.svg(figure, "Share of the starting statistics left, layer by layer")


def _batch_sizes(report: Mapping[str, Any]) -> Markup | None:
    batches = report.get("batches")
    if not batches:
        return None
    sizes = [int(size) for size in batches["is_training_true_by_size"]]
    accuracies = list(batches["is_training_true_by_size"].values())
    flat = [batches["is_training_false"]] * len(sizes)
    lines = [("is_training=True", sizes, accuracies), ("is_training=False", sizes, flat)]
    figure, plot = svg.lines(lines, x="batch size", y="accuracy")
    plot.set_xscale("log", base=2)
    plot.set_xticks(sizes, [str(size) for size in sizes])
    return svg.svg(figure, "Accuracy by batch size")


def _preprocessing(report: Mapping[str, Any]) -> Markup | None:
    check = report.get("preprocessing")
    if not check or not check["trials"]:
        return None
    best = sorted(check["trials"], key=lambda trial: (trial["name"] != check["current"], -trial["accuracy"]))[:_TRIALS]
    accuracies = {trial["name"]: trial["accuracy"] for trial in best}
    return svg.ranked(accuracies, x="accuracy", title="Accuracy under the present preprocessing and the best others")
