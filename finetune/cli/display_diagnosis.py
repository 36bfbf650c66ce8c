"""A diagnosis as a person reads it."""

from typing import TYPE_CHECKING

from rich.table import Table

from finetune.cli.console import Console

if TYPE_CHECKING:
    from finetune.diagnosis.report import Diagnosis

WORST = 5
"""Layers shown, those whose statistics are furthest off."""


def show_diagnosis(diagnosis: "Diagnosis") -> None:
    """The table a person reads in ten seconds, then the verdict, what led to it, what it is not, and the remedy."""
    evidence, verdict = diagnosis.evidence, diagnosis.verdict
    out = Console(highlight=False, soft_wrap=True)
    table = _table("accuracy", "is_training=False", "is_training=True", "recalibrated", "images")
    splits = (("test", evidence.test), ("training subset", evidence.train))
    for name, ways in splits:
        figures = [ways.is_training_false, ways.is_training_true, ways.recalibrated]
        table.add_row(name, *(f"{figure.accuracy:.1%}" for figure in figures), str(figures[0].examples))
    out.print(table)
    out.print()
    layers = sorted(evidence.layers, key=lambda one: -max(one.mean_shift, one.log_variance_ratio / 2))[:WORST]
    roots = {layer.name.partition("/")[0] for layer in evidence.layers}
    root = f"{roots.pop()}/" if len(roots) == 1 else ""
    table = _table(f"{len(layers)} worst of {len(evidence.layers)} BN layers", "mean shift", "log var ratio", "N")
    for layer in layers:
        table.add_row(
            layer.name.removeprefix(root).removesuffix("/BatchNorm"),
            f"{layer.mean_shift:.2f} sigma",
            f"{layer.log_variance_ratio:.2f}",
            f"{layer.values:.0f}",
        )
    out.print(table)
    out.print()
    out.print(f"{verdict.cause}: {verdict.sentence}", markup=False)
    for line in (*verdict.evidence[len(splits) :], *verdict.not_because):
        out.print(f"  - {line}", markup=False)
    if verdict.remedy:
        out.print(f"remedy: {verdict.remedy}", markup=False)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for column in others:
        table.add_column(column, justify="right")
    return table
