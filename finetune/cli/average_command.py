"""The command `finetune average`."""

from pathlib import Path
from typing import Any

import click

from finetune.cli.shared_options import PATH, output_options, printed_json, progress
from finetune.cli.startup import load_tensorflow


@click.command()
@click.argument("runs", type=PATH, nargs=-1, required=True, metavar="RUN RUN...")
@click.option("--out", type=PATH, required=True, metavar="DIR", help="The run directory to write; must not exist.")
@click.option(
    "--method",
    type=click.Choice(["uniform", "greedy"]),
    default="uniform",
    show_default=True,
    help="uniform: all runs. greedy: from the best run on, each run that does not lower the validation score.",
)
@output_options
def average(runs: tuple[Path, ...], out: Path, method: str) -> None:
    """Average the weights of finished runs into a new run directory, with BN statistics measured for the average.

    The runs have the same network, head, classes and test images. The moving statistics of an average are not the
    average of moving statistics, so they are recalibrated on training images; the result shows the accuracy of both.

    \b
    finetune average runs/a runs/b runs/c --out runs/soup
    finetune average runs/a runs/b runs/c --method greedy --out runs/soup
    """
    load_tensorflow()
    from finetune.training.average import average as write_average

    with progress(also_with_json=True) as display:
        run = write_average(list(runs), out, method=method, display=display)
    result = run.read("result.json")
    if printed_json({"run": str(run), "status": run.status, **{name: result[name] for name in _PRINTED}}):
        return
    _show(str(run), result)


_PRINTED = ("test", "weights", "validation", "bn", "proof", "peak_memory_mib")


def _show(run: str, result: dict[str, Any]) -> None:
    """Print the test accuracy with each kind of statistics, beside the best single run."""
    from finetune.cli.console import output_console, percent, plain_table, with_spread

    out, weights, test = output_console(), result["weights"], result["test"]
    names = [one["run"] for one in weights["runs"] if one["kept"]]
    best = next(one for one in weights["runs"] if one["run"] == weights["best_run"]["run"])

    def row(words: str, mode: str, one: dict[str, Any]) -> tuple[str, ...]:
        return words, mode, with_spread(one["accuracy"], one["standard_error"]), f"{one['loss']:.4f}"

    rows = [row(f"best single run, by {weights['best_run']['by']}", "False", best["test"]["is_training_false"])]
    if weights["averaged_statistics"]:
        averaged = weights["averaged_statistics"]["is_training_false"]
        rows.append(row("average, averaged statistics", "False", averaged))
    rows.append(row(f"average, statistics {weights['statistics']}", "False", test["is_training_false"]))
    rows.append(row("average, batch statistics", "True", test["is_training_true"]))
    table = plain_table(("test images", "is_training", "accuracy", "loss"), rows, left=("is_training",))
    out.print_block(table)
    out.print_fact("best run", best["run"])
    out.print_fact(
        "average", f"{weights['method']}, of {len(names)} of {len(weights['runs'])} runs: {', '.join(names)}"
    )
    if result["validation"]:
        out.print_fact("validation", f"accuracy {percent(result['validation']['accuracy'])}, of the average")
    frozen = result["proof"]["frozen_variables"]
    out.print_fact("proof", f"{frozen} variables that no run changed are bit-identical")
    out.print_fact("run", run)
