"""A diagnosis in a terminal."""

from typing import TYPE_CHECKING

from finetune.cli.console import output_console, plain_table

if TYPE_CHECKING:
    from finetune.diagnosis.report import Diagnosis

WORST = 5
"""BN layers shown: those whose statistics are furthest off."""


def show_diagnosis(diagnosis: "Diagnosis") -> None:
    """Print the accuracies, the worst layers, and the verdict with its evidence, excluded causes and remedy."""
    evidence, verdict = diagnosis.evidence, diagnosis.verdict
    out = output_console()
    table = plain_table("accuracy", "is_training=False", "is_training=True", "recalibrated", "images")
    splits = (("test", evidence.test), ("training subset", evidence.train))
    for name, modes in splits:
        scores = [modes.is_training_false, modes.is_training_true, modes.recalibrated]
        table.add_row(name, *(f"{score.accuracy:.1%}" for score in scores), str(scores[0].examples))
    out.print_block(table)
    layers = sorted(evidence.layers, key=lambda one: -max(one.mean_shift, one.log_variance_ratio / 2))[:WORST]
    roots = {layer.name.partition("/")[0] for layer in evidence.layers}
    root = f"{roots.pop()}/" if len(roots) == 1 else ""
    table = plain_table(f"{len(layers)} worst of {len(evidence.layers)} BN layers", "mean shift", "log var ratio", "N")
    for layer in layers:
        table.add_row(
            layer.name.removeprefix(root).removesuffix("/BatchNorm"),
            f"{layer.mean_shift:.2f} sigma",
            f"{layer.log_variance_ratio:.2f}",
            f"{layer.values:.0f}",
        )
    out.print_block(table)
    out.print(f"{verdict.cause}: {verdict.sentence}", markup=False)
    for line in (*verdict.evidence[len(splits) :], *verdict.not_because):
        out.print(f"  - {line}", markup=False)
    if verdict.remedy:
        out.print(f"remedy: {verdict.remedy}", markup=False)
