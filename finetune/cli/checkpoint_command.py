"""The command `finetune checkpoint`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetune.cli.shared_options import JSON, PATH, printed_json
from finetune.cli.startup import load_tensorflow
from finetune.cli.terminal import print_table
from finetune.text import printable

if TYPE_CHECKING:
    from checkpoints.matching.inspection import Inspection, Statistics


@click.group()
def checkpoint() -> None:
    """Inspect or convert a file of weights."""


@checkpoint.command()
@click.argument("path", type=PATH)
@click.option("--all", "everything", is_flag=True, help="Every variable with its shape, and every BatchNorm layer.")
@JSON
def inspect(path: Path, everything: bool) -> None:
    """Show what PATH holds: its variables, the networks of the catalogue they fit, the state of BatchNorm.

    PATH is a TF checkpoint (V1 file, V2 prefix, training directory), Keras weights (.h5, .weights.h5, .keras), a
    SavedModel's directory, or a .tar.gz with one of them. No code in it is run.
    """
    load_tensorflow()
    from checkpoints.formats import open_checkpoint
    from checkpoints.matching.inspection import inspect as inspect_checkpoint

    inspection = inspect_checkpoint(open_checkpoint(path))
    if not printed_json(inspection.to_json()):
        _show(inspection, everything=everything)


@checkpoint.command()
@click.argument("path", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--backbone",
    metavar="NAME",
    help="The network in PATH, if it fits several. Between TF checkpoints: write the variables of this network only.",
)
@JSON
def convert(path: Path, out: Path, backbone: str | None) -> None:
    """Write the weights in PATH to OUT in another format, bit for bit, head included.

    PATH is anything that 'inspect' accepts. OUT ends in .weights.h5 or .keras, or is the prefix of a slim V2
    checkpoint (model.ckpt). Variables that the other format cannot hold, such as optimizer slots and moving averages,
    are listed. From TF checkpoint to TF checkpoint (V1 or V2), everything is copied. Nothing is overwritten.
    """
    load_tensorflow()
    from finetune.backbone.conversion import convert as convert_weights

    done = convert_weights(path, out, backbone=backbone)
    if not printed_json(done.to_json()):
        click.echo(done.summary())


def _show(inspection: "Inspection", *, everything: bool) -> None:
    rows = [
        ("file", f"{inspection.path} ({inspection.kind})"),
        ("sha256", inspection.sha256),
        ("variables", f"{len(inspection.variables)}, {inspection.parameters:,} parameters"),
        *(("left over", f"{len(names)} {reason} ({names[0]})") for reason, names in inspection.leftovers.items()),
    ]
    if inspection.step is not None:
        rows.append(("step", f"{inspection.step:,}"))
    best = inspection.best
    rows += [("read", remark) for remark in inspection.remarks]
    if best is not None and best.lacks_statistics:
        rows += [("fits", f"{best.summary()}, but for its moving statistics"), ("to do", best.remedy(inspection.path))]
    else:
        rows += [("fits", fit.summary()) for fit in inspection.fits] or [("fits", "no backbone of the catalogue")]
    others = [fit for fit in inspection.nearest if not fit.lacks_statistics]
    rows += [("not" if inspection.fits else "nearest", f"{fit.spec.id}: {fit.why_not()}") for fit in others]
    if best is not None and (best.exact or best.lacks_statistics):
        rows.append(("head", "none" if best.outputs is None else f"{best.head}, {best.outputs} outputs"))
    if inspection.non_finite:
        some = ", ".join(inspection.non_finite[:3])
        rows.append(("NOT FINITE", f"NaN or infinity in {len(inspection.non_finite)} variables ({some})"))
    rows.append(("BatchNorm", _batchnorm(inspection)))
    for label, text in rows:
        click.echo(f"{label:10}  {printable(text)}")
    _tables(inspection, everything=everything)


def _batchnorm(inspection: "Inspection") -> str:
    layers = inspection.batchnorm
    if not layers:
        return "no moving statistics"
    initial, broken = sum(one.initial for one in layers), sum(not one.finite for one in layers)
    negative = sum(one.negative > 0 for one in layers)
    means, variances = ([getattr(one, key) for one in layers if getattr(one, key)] for key in ("mean", "variance"))
    parts = [
        f"{initial} at their initial values (mean 0, variance 1)" if initial else "none at its initial values",
        f"{broken} NOT FINITE" if broken else "all finite",
        f"{negative} with NEGATIVE variances" if negative else "no negative variance",
    ]
    if means and variances:
        parts += [
            f"mean {min(low for low, _ in means):.4g} to {max(high for _, high in means):.4g}",
            f"variance {min(low for low, _ in variances):.4g} to {max(high for _, high in variances):.4g}",
        ]
    return f"{len(layers)} layers: {', '.join(parts)}"


def _tables(inspection: "Inspection", *, everything: bool) -> None:
    suspect = [one for one in inspection.batchnorm if everything or one.initial or one.negative or not one.finite]
    shown = suspect if everything else suspect[:_SUSPECTS]
    if shown:
        header = ("BatchNorm layer", "channels", "moving mean", "moving variance", "")
        _print_table(header, [_layer_row(one) for one in shown])
        if len(suspect) > len(shown):
            click.echo(f"and {len(suspect) - len(shown)} more: --all shows every one")
    if everything:
        rows = [(name, str(list(shape))) for name, shape in inspection.variables.items()]
        rows += [(name, reason) for reason, names in inspection.leftovers.items() for name in names]
        _print_table(("variable", "shape"), rows)
    else:
        _print_table(
            ("group", "variables", "parameters", "first ... last"),
            [
                (group.name, str(group.variables), f"{group.parameters:,}", f"{group.first} ... {group.last}")
                for group in inspection.groups
            ],
        )


_SUSPECTS = 10
_NUMBERS = ("variables", "parameters", "channels")


def _layer_row(layer: "Statistics") -> tuple[str, ...]:
    marks = {"initial values": layer.initial, "not finite": not layer.finite, "negative": layer.negative > 0}
    ranges = ("" if pair is None else f"{pair[0]:.4g} to {pair[1]:.4g}" for pair in (layer.mean, layer.variance))
    return (layer.layer, str(layer.channels), *ranges, ", ".join(mark for mark, is_so in marks.items() if is_so))


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    click.echo()
    print_table(header, rows, numbers=_NUMBERS)
