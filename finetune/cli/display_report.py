"""A report in a terminal: one run in full as tables, or several runs side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.measure import Measurement
from rich.text import Text

from finetune.cli.console import Console, output_console, percent, plain_table, with_spread
from finetune.cli.display_search import show_search
from finetune.cli.terminal import Columns, tabulated
from finetune.reporting.words import label_scores, others_moved, scaling_words, seconds, setting
from finetune.text import all_printable

LISTED = 25
"""Classes listed at most; of more classes, those with the lowest F1."""
WORST_LAYERS = 5
MATRIX = 20
"""Classes up to which the confusion matrix is a table."""
CURVES = 30
"""Epochs listed at most; of more epochs, every second, third and so on."""
COMPARED_CLASSES = 25
COMPARED_RUNS = 12
"""Up to so many runs with so many classes are compared class by class."""


def show_report(report: Mapping[str, Any]) -> None:
    """Print one run in full, or several side by side."""
    # Names of classes and paths may come from other people, so control characters in them are written out.
    report = all_printable(report)
    out = output_console()
    if len(report["runs"]) > 1:
        _side_by_side(out, report)
    else:
        _one(out, report["runs"][0])
    for search in report["searches"]:
        show_search(out, search, table=True)


def _one(out: Console, run: Mapping[str, Any]) -> None:
    out.print(f"{run['name']}  {run['path']}", markup=False, style="bold")
    _remarks(out, [run])
    out.print()
    if run["test"]:
        _accuracy(out, run)
    _curves(out, run["epochs"])
    if run["test"]:
        _confusion(out, run)
        _classes(out, run["classes"])
        _mistakes(out, run["mistakes"])
        _reliability(out, run["calibration"], run.get("temperature_scaling"))
    _batchnorm(out, run)
    _frozen(out, run)
    _circumstances(out, run)


def _accuracy(out: Console, run: Mapping[str, Any]) -> None:
    test = run["test"]
    out.print_fact(
        "test accuracy",
        f"is_training=False {_with_error(test['is_training_false'])}   is_training=True "
        f"{percent(test['is_training_true']['accuracy'])}   ({test['is_training_false']['examples']} images)",
    )
    if several := run.get("multi_label"):
        test, at = run["test"]["is_training_false"], several["at_thresholds"]
        out.print_fact(
            "by label",
            f"mean average precision {percent(test['map'])}, of single labels {percent(test['label_accuracy'])} right",
        )
        out.print_fact("at thresholds", label_scores(at))
        held_out = (percent(run[f"validation_{name}"]) for name in ("accuracy", "macro_f1"))
        out.print_fact(
            "validation", "{}   macro F1 {}   ".format(*held_out) + f"mAP {percent(run.get('validation_map'))}"
        )
        out.print()
        return
    out.print_fact(
        "by class", f"macro F1 {percent(run['macro_f1'])}   balanced accuracy {percent(run['balanced_accuracy'])}"
    )
    held_out = (percent(run[f"validation_{name}"]) for name in ("accuracy", "macro_f1", "balanced_accuracy"))
    out.print_fact("validation", "{}   macro F1 {}   balanced accuracy {}".format(*held_out))
    out.print()


_CURVES = {
    "train_loss": "train loss",
    "train_accuracy": "train acc.",
    "validation_loss": "val. loss",
    "validation_accuracy": "val. acc.",
    "validation_macro_f1": "val. F1",
    "validation_map": "val. mAP",
    "learning_rate": "rate",
    "images_per_second": "images/s",
}


def _curves(out: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    names = [name for name in _CURVES if any(row.get(name) is not None for row in rows)]
    step = -(-len(rows) // CURVES)
    shown = [*rows[step - 1 :: step], *(rows[-1:] if len(rows) % step else ())]
    cells = [(row["epoch"], *(_measure(name, row.get(name)) for name in names)) for row in shown]
    out.print_block(plain_table(("epoch", *(_CURVES[name] for name in names)), cells))


def _measure(name: str, value: float | None) -> str:
    """A value of metrics.jsonl: accuracies as percentages, other numbers with four digits."""
    if value is None:
        return "-"
    return percent(value) if name.endswith(("accuracy", "f1", "map")) else f"{value:.4g}"


def _confusion(out: Console, run: Mapping[str, Any]) -> None:
    matrix, classes = run["confusion"], run["classes"]
    if matrix and len(classes) <= MATRIX:
        rows = []
        for number, (one, row) in enumerate(zip(classes, matrix, strict=True)):
            styles = ["bold" if column == number else "" for column in range(len(row))]
            counts = [Text(str(count or "·"), style=style) for count, style in zip(row, styles, strict=True)]
            rows.append((f"{number} {one['name']}", *counts))
        table = plain_table(("true class, predicted as:", *map(str, range(len(classes)))), rows)
        if Measurement.get(out, out.options.update(width=10_000), table).maximum <= out.width:
            out.print(table)
    words = [f"{one['true']} predicted as {one['predicted']} ({one['images']})" for one in run["confused"][:5]]
    if words:
        out.print(f"most often confused: {', '.join(words)}", markup=False)
    if run["not_finite"]:
        out.print(f"{run['not_finite']} images have no prediction: a logit was not finite", style="yellow")
    out.print()


def _classes(out: Console, classes: Sequence[Mapping[str, Any]]) -> None:
    shown = list(classes)
    if len(classes) > LISTED:
        shown = sorted((one for one in classes if one["images"]), key=lambda one: one["f1"] or 0.0)[:LISTED]
    columns: Columns = {
        "class": lambda one: one["name"],
        "precision": lambda one: percent(one["precision"]),
        "recall": lambda one: percent(one["recall"]),
        "F1": lambda one: percent(one["f1"]),
        "images": lambda one: one["images"],
    }
    if any("average_precision" in one for one in classes):
        columns["average precision"] = lambda one: percent(one["average_precision"])
    if any(one["threshold"] is not None for one in classes):
        columns["threshold"] = lambda one: "-" if one["threshold"] is None else f"{one['threshold']:.3f}"
    out.print(plain_table(*tabulated(shown, columns)))
    if len(shown) < len(classes):
        out.print(f"the {len(shown)} of {len(classes)} classes with the lowest F1; --json and --html list all")
    out.print()


def _mistakes(out: Console, mistakes: Sequence[Mapping[str, Any]]) -> None:
    if not mistakes:
        return
    out.print("most confident mistakes, by the number of the test image")
    if "label" in mistakes[0]:
        labels = [
            (one["image"], one["predicted"], one["true"], one["label"], percent(one["probability"]))
            for one in mistakes[:10]
        ]
        header = ("image", "predicted", "true", "label furthest off", "its probability")
        out.print_block(plain_table(header, labels, left=("predicted", "true", "label")))
        return
    header = ("image", "predicted", "probability", "true class", "its probability")
    rows = [
        (one["image"], one["predicted"], percent(one["probability"]), one["true"], percent(one["true_probability"]))
        for one in mistakes[:10]
    ]
    out.print_block(plain_table(header, rows, left=("predicted", "true class")))


def _reliability(out: Console, calibration: Mapping[str, Any], scaling: Mapping[str, Any] | None) -> None:
    columns: Columns = {
        "confidence": lambda one: f"{one['low']:.0%} to {one['high']:.0%}",
        "images": lambda one: one["images"],
        "mean confidence": lambda one: percent(one["confidence"]),
        "accuracy": lambda one: percent(one["accuracy"]),
        "gap": lambda one: f"{100 * (one['accuracy'] - one['confidence']):+.1f}",
    }
    out.print(plain_table(*tabulated((one for one in calibration["bins"] if one["images"]), columns)))
    out.print(
        f"expected calibration error {percent(calibration['expected_error'])} (15 bins, Guo et al. 2017), largest "
        f"{percent(calibration['largest_error'])}"
    )
    if scaling:
        out.print(scaling_words(scaling), markup=False)
    out.print()


def _batchnorm(out: Console, run: Mapping[str, Any]) -> None:
    bn, diagnosis = run["bn"], run["diagnosis"]
    if bn and bn["layers"]:
        end = ", recalibrated at the end" if bn["recalibrated"] else ""
        share = f"{bn['residual']:.2g} of the starting statistics left{end}"
        out.print_fact("BatchNorm", f"{bn['layers']} layers, decay {bn['decay']:g}, {bn['updates']} updates: {share}")
    elif bn:
        out.print_fact("BatchNorm", "none in this network")
    if not diagnosis:
        if bn and bn["layers"]:
            out.print_fact("", "no diagnosis was made: 'finetune diagnose-bn RUN' measures the drift of every layer")
        out.print()
        return
    verdict = diagnosis["verdict"]
    out.print_fact("", f"{verdict['cause']}: {verdict['sentence']}")
    layers = [layer for layer in diagnosis["layers"] if layer.get("mean_shift") is not None]
    columns: Columns = {
        "BN layers furthest off": lambda layer: layer["name"],
        "mean shift": lambda layer: f"{layer['mean_shift']:.2f} sigma",
        "log var ratio": lambda layer: "-" if (ratio := layer.get("log_variance_ratio")) is None else f"{ratio:.2f}",
        "share left": lambda layer: percent(layer.get("share")),
    }
    furthest = sorted(layers, key=lambda one: -float(one["mean_shift"]))[:WORST_LAYERS]
    out.print_block(plain_table(*tabulated(furthest, columns)))


def _frozen(out: Console, run: Mapping[str, Any]) -> None:
    if not run["plan"]:
        return
    header = ("stage", "weight layers", "trainable", "BN layers", "BN policy")
    rows = [
        (row["stage"], row["layers"], row["training"], sum(bn.values()), ", ".join(f"{one} {bn[one]}" for one in bn))
        for row in run["plan"]
        for bn in [row["bn"]]
    ]
    out.print(plain_table(header, rows, left=("BN policy",)))
    if proof := run["proof"]:
        frozen, kept = proof["frozen_variables"], proof["frozen_variables"] - len(proof.get("moved_though_frozen", []))
        out.print(f"{kept} of {frozen} frozen variables bit-identical, {others_moved(proof)}")
    out.print()


def _circumstances(out: Console, run: Mapping[str, Any]) -> None:
    weights, data, environment, cost = run["weights"], run["data"], run["environment"], run["cost"]
    if weights:
        digest = (weights["sha256"] or "")[:12]
        out.print_fact("weights", f"{weights['path']} ({weights['kind']}, sha256 {digest})")
    if data:
        counts = ", ".join(f"{count} {split}" for split, count in data["images"].items())
        out.print_fact("data", f"{data['source']}: {counts} images")
    settings = [f"{name}={setting(value)}" for name, value in run["config"].items() if value not in (None, [], ())]
    out.print_fact("settings", " ".join(settings))
    if environment:
        packages = " ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items() if version)
        out.print_fact("environment", f"Python {environment.get('python')}, {packages}")
        devices = " ".join(environment.get("devices", []))
        out.print_fact("", f"{environment.get('platform')}, {environment.get('cores')} cores, {devices}")
    if cost["train_seconds"] is not None:
        rate = f", {cost['images_per_second']:.0f} images/s" if cost["images_per_second"] else ""
        peak = f"peak {cost['peak_memory_mib']:.0f} MiB"
        out.print_fact(
            "time", f"{seconds(cost['train_seconds'])} training{rate}, {seconds(cost['seconds'])} in all, {peak}"
        )


def _side_by_side(out: Console, report: Mapping[str, Any]) -> None:
    """Print the ranking, and F1 by class. Every text in `report` is printable."""
    _ranking(out, report)
    _by_class(out, report["runs"])
    _remarks(out, report["runs"])
    out.print("one run in full: finetune report RUN; all as a page: --html FILE", markup=False)


def _ranking(out: Console, report: Mapping[str, Any]) -> None:
    scores: Columns = {
        "rank": lambda run: run["rank"] or "",
        "run": lambda run: run["name"],
        "test": lambda run: _with_error(run["test"]["is_training_false"]) if run["test"] else run["status"],
        "is_training=True": lambda run: percent(run["test"]["is_training_true"]["accuracy"]) if run["test"] else "-",
        "validation": lambda run: percent(run["validation_accuracy"]),
        "against the best": lambda run: run["verdict"],
    }
    out.print_block(plain_table(*tabulated(report["runs"], scores), left=("run", "against")))
    others: Columns = {
        "run": lambda run: run["name"],
        "macro F1": lambda run: percent(run["macro_f1"]),
        "balanced acc.": lambda run: percent(run["balanced_accuracy"]),
        "calibration error": lambda run: percent(run["calibration"]["expected_error"]) if run["test"] else "-",
        "training": lambda run: seconds(run["cost"]["train_seconds"]),
        "images/s": lambda run: f"{rate:.0f}" if (rate := run["cost"]["images_per_second"]) else "-",
        "settings that differ": lambda run: ", ".join(
            f"{one} {setting(run['settings'][one])}" for one in run["settings"]
        ),
    }
    out.print_block(plain_table(*tabulated(report["runs"], others), left=("settings",)))
    if any(len(group["runs"]) > 1 for group in report["groups"]):
        _groups(out, report["groups"])
    if report["ranking"]:
        out.print(report["ranking"], markup=False)
        out.print("± behind a run's test accuracy is the standard error of a test set of this size; within noise:")
        out.print(f"  {report['within_noise_paired']}; else {report['within_noise']}", markup=False)
    for remark in report["remarks"]:
        out.print(remark, style="yellow", markup=False)
    out.print()


def _groups(out: Console, groups: Sequence[Mapping[str, Any]]) -> None:
    columns: Columns = {
        "rank": lambda group: group["rank"],
        "runs that differ in the seed only": lambda group: group["name"],
        **_selected(groups),
        "validation": lambda group: with_spread(group["validation_accuracy"], group["validation_accuracy_spread"]),
        "test": lambda group: with_spread(group["test_accuracy"], group["test_accuracy_spread"]),
        "against the best": lambda group: group["verdict"],
    }
    out.print(plain_table(*tabulated(groups, columns), left=("runs", "against")))
    out.print_block("± is the standard deviation over them")


def _selected(groups: Sequence[Mapping[str, Any]]) -> Columns:
    """The score of --select-by that ranks the runs, where it is not accuracy."""
    by = groups[0]["select_by"]
    if by == "accuracy":
        return {}
    shown = (lambda value: _measure("", value)) if by == "loss" else percent
    return {
        f"val. {by}": lambda group: shown(group["validation_selected"]),
        f"test {by}": lambda group: shown(group["test_selected"]),
    }


def _by_class(out: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    known = [run for run in runs if run.get("classes")]
    names = [[one["name"] for one in run["classes"]] for run in known]
    if len(known) < 2 or any(one != names[0] for one in names):
        return
    if len(names[0]) > COMPARED_CLASSES or len(known) > COMPARED_RUNS:
        return
    rows = [(name, *(percent(run["classes"][place]["f1"]) for run in known)) for place, name in enumerate(names[0])]
    out.print_block(plain_table(("F1 by class", *(run["name"] for run in known)), rows))


def _remarks(out: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    """Print what a reader must know about each run."""
    for run in runs:
        for remark in run["remarks"]:
            out.print(f"{run['name']}: {remark}", style="yellow", markup=False)


def _with_error(test: Mapping[str, Any]) -> str:
    """An accuracy with its standard error."""
    return f"{percent(test['accuracy'])} ± {percent(test['standard_error'])}"
