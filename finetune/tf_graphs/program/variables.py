"""The variables of a graph and their values in a checkpoint, read without running the graph's own restore."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from checkpoints.formats import Checkpoint
from checkpoints.formats.operations import VARIABLES
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.metagraph import MetaGraph, Saved
from finetune.tf_graphs.program.nodes import Graph, declared_shape

_AVERAGE = "/ExponentialMovingAverage"
_SHOWN = 6


@dataclass(frozen=True)
class Averages:
    """Exponential moving averages of weights in a checkpoint.

    averaged: variables that have one. without: variables on the way to the logits that have none.
    used: whether the averages are what was read.
    """

    averaged: tuple[str, ...]
    without: tuple[str, ...]
    used: bool


def places(
    graph: Graph, meta: MetaGraph, checkpoint: Checkpoint, names: Iterable[str], *, use_averages: bool
) -> tuple[dict[str, Saved], Averages]:
    """Where in `checkpoint` each variable of `names` lies, and which of them have averages.

    By the variable's own name, else as a Saver of the graph says. Raises FinetuneError where one is missing, has
    another shape, or where averages are asked for and there are none.
    """
    found: dict[str, Saved] = {}
    missing = []
    for name in names:
        own = [saved for saved in meta.saved.get(name, ()) if saved.key == name]
        kept = [saved for saved in (*own, Saved(name), *meta.saved.get(name, ())) if saved.key in checkpoint.shapes]
        if kept:
            found[name] = kept[0]
        else:
            missing.append(name)
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise FinetuneError(
            f"{checkpoint.path} does not hold {', '.join(missing[:_SHOWN])}{more} of {meta.path}: it is not the "
            "checkpoint of this graph; give the right one by --checkpoint"
        )
    averaged = tuple(name for name, saved in found.items() if saved.key + _AVERAGE in checkpoint.shapes)
    if use_averages:
        if not averaged:
            raise FinetuneError(f"{checkpoint.path} holds no averages of weights (*{_AVERAGE}): leave out --ema")
        found.update({name: replace(found[name], key=found[name].key + _AVERAGE) for name in averaged})
    for name, saved in found.items():
        _require_shape(graph, name, saved, checkpoint)
    without = tuple(name for name in found if name not in averaged) if averaged else ()
    return found, Averages(averaged, without, use_averages)


def _require_shape(graph: Graph, name: str, saved: Saved, checkpoint: Checkpoint) -> None:
    wanted, kept = declared_shape(graph.nodes[name]), checkpoint.shapes[saved.key]
    if saved.part or wanted is None or None in wanted or tuple(wanted) == tuple(kept):
        return
    raise FinetuneError(
        f"{saved.key} is {list(kept)} in {checkpoint.path}, but {list(wanted)} in the graph: it is the checkpoint of "
        "another network (another number of classes, for the last layer); give the right one by --checkpoint"
    )


def load(checkpoint: Checkpoint, saved: Saved) -> np.ndarray:
    """A variable's value. FinetuneError where the part a Saver names does not fit."""
    value = checkpoint.read(saved.key)
    return value[cuts(saved, value.shape)] if saved.part else value


def cuts(saved: Saved, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of a tensor of `shape` that a variable is (`4,8 0,2:0,8` in a Saver). FinetuneError where none is."""
    if not saved.part:
        return tuple(slice(None) for _ in shape)
    *_, spans = saved.part.split(" ")
    try:
        parts = [span.partition(",") for span in spans.split(":")]
        found = [
            slice(None) if start == "-" else slice(int(start), int(start) + int(length)) for start, _, length in parts
        ]
    except ValueError:
        found = []
    if len(found) != len(shape) or any((each.stop or 0) > side for each, side in zip(found, shape, strict=True)):
        raise FinetuneError(
            f"the graph's Saver takes the part '{saved.part}' of {saved.key}, which is {list(shape)}: graph and "
            "checkpoint do not belong together"
        )
    return tuple(found)


def of(graph: Graph) -> list[str]:
    """The names of a graph's variables."""
    return [name for name, node in graph.nodes.items() if node.op in VARIABLES]


def step(meta: MetaGraph, checkpoint: Checkpoint) -> int | None:
    """The global step: as the graph calls it or by its usual name; else the number at the end of the file's name.

    A step that is still 0 is one that nothing counts, and the file's number is the better one.
    """
    counted = None
    for name in (*(name.partition(":")[0] for name in meta.collections.get("global_step", ())), "global_step"):
        if counted is None and checkpoint.shapes.get(name) == ():
            counted = int(checkpoint.read(name))
    _, _, number = checkpoint.path.name.rpartition("-")
    return counted or (int(number) if number.isdigit() else counted)


def initial(arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether all moving statistics are still 0 and 1."""
    return all(bool(np.all(mean == 0) and np.all(variance == 1)) for mean, variance in arrays.values())
