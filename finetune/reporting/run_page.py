"""One or more runs as a page: from the JSON of `finetune.reporting.run_report`, and pictures of the mistakes."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from finetune.reporting import curves
from finetune.reporting.html import render
from finetune.text import all_printable

HEAT_CLASSES = 25
"""With more classes the confusion matrix is a picture: a table of it would be unreadable."""
LISTED_CLASSES = 40
"""With more classes the table of all of them is folded, below the ones with the lowest F1."""


def render_run_page(report: Mapping[str, Any], pictures: Mapping[str, Sequence[str]]) -> str:
    """The HTML of `finetune report --html`. `report` is what `--json` prints; `pictures` has a data URI for each
    mistake of a run, by the run's name."""
    shown = all_printable(report)
    runs = [
        {**run, "drawn": _drawn(run), "pictures": pictures.get(raw["name"], []), **_added(run)}
        for run, raw in zip(shown["runs"], report["runs"], strict=True)
    ]
    return render(
        "report.html",
        report=shown,
        runs=runs,
        several=len(runs) > 1,
        pooled=any(len(group["runs"]) > 1 for group in shown["groups"]),
        together=_together(runs) if len(runs) > 1 else [],
        drawn=curves.DRAWN,
        by_class=_by_class(runs) if len(runs) > 1 else None,
        listed_classes=LISTED_CLASSES,
    )


def _added(run: Mapping[str, Any]) -> dict[str, Any]:
    """Texts made of a run's values: quoted paths for the shell, and one table of the environment and its packages."""
    environment = dict(run["environment"])
    packages = environment.pop("packages", None) or {}
    environment |= {name: version or "not installed" for name, version in packages.items()}
    path = run["path"]
    return {
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
        "drift": curves.drift(run["diagnosis"]["layers"]) if (run.get("diagnosis") or {}).get("layers") else None,
        "confusion": curves.heat(run["confusion"]) if len(run.get("confusion") or []) > HEAT_CLASSES else None,
        "heat": [[count / max(sum(row), 1) for count in row] for row in run.get("confusion") or []],
        "worst": _worst(run.get("classes") or []),
    }


def _worst(classes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    tested = [one for one in classes if one["images"]]
    return sorted(tested, key=lambda one: one["f1"] or 0.0)[:15] if len(classes) > LISTED_CLASSES else []


def _together(runs: Sequence[Mapping[str, Any]]) -> list[Markup]:
    drawn = [
        curves.of_runs(runs, "validation_accuracy", "Validation accuracy by epoch"),
        curves.of_runs(runs, "train_loss", "Training loss by epoch"),
    ]
    return [one for one in drawn if one is not None]


def _by_class(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """F1 of every class in every run. None where the runs have other classes than each other, or too many to read."""
    known = [run for run in runs if run.get("classes")]
    names = [[one["name"] for one in run["classes"]] for run in known]
    if len(known) < 2 or any(one != names[0] for one in names) or len(names[0]) > LISTED_CLASSES:
        return None
    rows = [(name, [run["classes"][label]["f1"] for run in known]) for label, name in enumerate(names[0])]
    return {"runs": [run["name"] for run in known], "rows": rows}
