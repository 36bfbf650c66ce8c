"""A report in a terminal: the page's content as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.measure import Measurement
from rich.text import Text

from finetune.cli.console import Console
from finetune.cli.display_runs import percent, show_remarks, show_side_by_side, table_of, with_error
from finetune.reporting.words import others_moved, seconds, setting
from finetune.text import all_printable

LISTED = 25
"""Classes listed; of more, those with the lowest F1."""
WORST_LAYERS = 5
MATRIX = 20
"""Classes up to which the confusion matrix is a table."""
CURVES = 30
"""Epochs listed; of more, every so many."""


def show_report(report: Mapping[str, Any]) -> None:
    """One run in full; several side by side."""
    # Names of classes and paths are other people's: what steers a terminal is written out.
    report = all_printable(report)
    out = Console(highlight=False, soft_wrap=True)
    out = out if out.is_terminal else Console(highlight=False, soft_wrap=True, width=1000)
    runs = report["runs"]
    if len(runs) > 1:
        show_side_by_side(out, report)
    else:
        _one(out, runs[0])


def _one(out: Console, run: Mapping[str, Any]) -> None:
    out.print(f"{run['name']}  {run['path']}", markup=False, style="bold")
    show_remarks(out, [run])
    out.print()
    if run["test"]:
        _accuracy(out, run)
    _curves(out, run["epochs"])
    if run["test"]:
        _confusion(out, run)
        _classes(out, run["classes"])
        _mistakes(out, run["mistakes"])
        _reliability(out, run["calibration"])
    _batchnorm(out, run)
    _frozen(out, run)
    _circumstances(out, run)


def _accuracy(out: Console, run: Mapping[str, Any]) -> None:
    test = run["test"]
    out.print(
        f"test accuracy  is_training=False {with_error(test['is_training_false'])}   is_training=True "
        f"{percent(test['is_training_true']['accuracy'])}   ({test['is_training_false']['examples']} images)",
        markup=False,
    )
    out.print(f"validation     {percent(run['validation_accuracy'])}   macro F1 {percent(run['macro_f1'])}")
    out.print()


def _curves(out: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    names = {
        "train_loss": "train loss", "train_accuracy": "train acc.", "validation_loss": "val. loss",
        "validation_accuracy": "val. acc.", "learning_rate": "rate", "images_per_second": "images/s",
    }  # fmt: skip
    chosen = [name for name in names if any(row.get(name) is not None for row in rows)]
    if not rows:
        return
    table = table_of("epoch", *(names[name] for name in chosen))
    step = -(-len(rows) // CURVES)
    for row in [*rows[step - 1 :: step], *([] if len(rows) % step == 0 else [rows[-1]])]:
        cells = [row.get(name) for name in chosen]
        table.add_row(
            str(row["epoch"]),
            *("-" if value is None else percent(value) if name.endswith("accuracy") else f"{value:.4g}"
              for name, value in zip(chosen, cells, strict=True)),
        )  # fmt: skip
    out.print(table)
    out.print()


def _confusion(out: Console, run: Mapping[str, Any]) -> None:
    matrix, classes = run["confusion"], run["classes"]
    if len(classes) <= MATRIX:
        table = table_of("true class, taken for:", *(str(number) for number in range(len(classes))))
        for number, (one, row) in enumerate(zip(classes, matrix, strict=True)):
            cells = [
                Text(str(count) if count else "·", style="bold" if place == number else "")
                for place, count in enumerate(row)
            ]
            table.add_row(Text(f"{number} {one['name']}"), *cells)
        if Measurement.get(out, out.options.update(width=10_000), table).maximum <= out.width:
            out.print(table)
    words = [f"{one['true']} taken for {one['predicted']} ({one['images']})" for one in run["confused"][:5]]
    if words:
        out.print(f"most often confused: {', '.join(words)}", markup=False)
    if run["not_finite"]:
        out.print(f"{run['not_finite']} images got no prediction: a logit was not finite", style="yellow")
    out.print()


def _classes(out: Console, classes: Sequence[Mapping[str, Any]]) -> None:
    shown = list(classes)
    if len(classes) > LISTED:
        shown = sorted((one for one in classes if one["images"]), key=lambda one: one["f1"] or 0.0)[:LISTED]
    table = table_of("class", "precision", "recall", "F1", "images")
    for one in shown:
        figures = [percent(one[name]) for name in ("precision", "recall", "f1")]
        table.add_row(Text(one["name"]), *figures, str(one["images"]))
    out.print(table)
    if len(shown) < len(classes):
        out.print(f"the {len(shown)} of {len(classes)} classes with the lowest F1; --json and --html have all")
    out.print()


def _mistakes(out: Console, mistakes: Sequence[Mapping[str, Any]]) -> None:
    if not mistakes:
        return
    table = table_of("image", "taken for", "probability", "true class", "its probability",
                   left=("taken for", "true class"))  # fmt: skip
    out.print("most confident mistakes, by the number of the test image")
    for one in mistakes[:10]:
        table.add_row(
            str(one["image"]), Text(one["predicted"]), percent(one["probability"]), Text(one["true"]),
            percent(one["true_probability"]),
        )  # fmt: skip
    out.print(table)
    out.print()


def _reliability(out: Console, calibration: Mapping[str, Any]) -> None:
    table = table_of("confidence", "images", "mean confidence", "accuracy", "gap")
    for one in calibration["bins"]:
        if one["images"]:
            gap = 100 * (one["accuracy"] - one["confidence"])
            table.add_row(
                f"{one['low']:.0%} to {one['high']:.0%}", str(one["images"]), percent(one["confidence"]),
                percent(one["accuracy"]), f"{gap:+.1f}",
            )  # fmt: skip
    out.print(table)
    out.print(
        f"expected calibration error {percent(calibration['expected_error'])} (15 bins, Guo et al. 2017), largest "
        f"{percent(calibration['largest_error'])}"
    )
    out.print()


def _batchnorm(out: Console, run: Mapping[str, Any]) -> None:
    bn, diagnosis = run["bn"], run["diagnosis"]
    if bn and bn["layers"]:
        end = ", recalibrated at the end" if bn["recalibrated"] else ""
        out.print(
            f"BatchNorm      {bn['layers']} layers, decay {bn['decay']:g}, {bn['updates']} updates: "
            f"{bn['residual']:.2g} of the starting statistics left{end}"
        )
    elif bn:
        out.print("BatchNorm      none in this network")
    if not diagnosis:
        if bn and bn["layers"]:
            out.print(
                "               no diagnosis was made: 'finetune diagnose-bn RUN' measures the drift of every layer"
            )
        out.print()
        return
    verdict = diagnosis["verdict"]
    out.print(f"               {verdict['cause']}: {verdict['sentence']}", markup=False)
    layers = [layer for layer in diagnosis["layers"] if layer.get("mean_shift") is not None]
    table = table_of("BN layers furthest off", "mean shift", "log var ratio", "share left")
    for layer in sorted(layers, key=lambda one: -float(one["mean_shift"]))[:WORST_LAYERS]:
        ratio = layer.get("log_variance_ratio")
        table.add_row(
            Text(layer["name"]),
            f"{layer['mean_shift']:.2f} sigma",
            "-" if ratio is None else f"{ratio:.2f}",
            percent(layer.get("share")),
        )
    out.print(table)
    out.print()


def _frozen(out: Console, run: Mapping[str, Any]) -> None:
    if not run["plan"]:
        return
    table = table_of("stage", "weight layers", "that trained", "BN layers")
    table.add_column("BN policy")
    for row in run["plan"]:
        policies = ", ".join(f"{name} {count}" for name, count in row["bn"].items())
        cells = (row["layers"], row["training"], sum(row["bn"].values()))
        table.add_row(Text(row["stage"]), *(str(cell) for cell in cells), policies)
    out.print(table)
    if proof := run["proof"]:
        frozen, kept = proof["frozen_variables"], proof["frozen_variables"] - len(proof.get("moved_though_frozen", []))
        out.print(f"{kept} of {frozen} frozen variables bit-identical, {others_moved(proof)}")
    out.print()


def _circumstances(out: Console, run: Mapping[str, Any]) -> None:
    weights, data, environment, cost = run["weights"], run["data"], run["environment"], run["cost"]
    if weights:
        digest = (weights["sha256"] or "")[:12]
        out.print(f"weights        {weights['path']} ({weights['kind']}, sha256 {digest})", markup=False)
    if data:
        counts = ", ".join(f"{count} {split}" for split, count in data["images"].items())
        out.print(f"data           {data['source']}: {counts} images", markup=False)
    settings = [f"{name}={setting(value)}" for name, value in run["config"].items() if value not in (None, [], ())]
    out.print(f"settings       {' '.join(settings)}", markup=False)
    if environment:
        packages = " ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items() if version)
        out.print(f"environment    Python {environment.get('python')}, {packages}", markup=False)
        devices = " ".join(environment.get("devices", []))
        out.print(
            f"               {environment.get('platform')}, {environment.get('cores')} cores, {devices}", markup=False
        )
    if cost["train_seconds"] is not None:
        rate = f", {cost['images_per_second']:.0f} images/s" if cost["images_per_second"] else ""
        out.print(
            f"time           {seconds(cost['train_seconds'])} training{rate}, {seconds(cost['seconds'])} in all, peak "
            f"{cost['peak_memory_mib']:.0f} MiB"
        )
