"""How a graph updates its moving statistics, and whether its train op does."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from checkpoints.formats.operations import ASSIGNMENTS
from finetune.tf_graphs.program.graphdef import parse_ref
from finetune.tf_graphs.program.nodes import IMAGES, Graph

UPDATE_OPS, TRAIN_OP = "update_ops", "train_op"
_APPLY = re.compile(r"^(Resource)?(Sparse)?Apply[A-Z]")


@dataclass(frozen=True)
class Wiring:
    """The updates of moving statistics in a graph.

    collected: operations in the collection UPDATE_OPS. updates: assignments to moving statistics (node names) that
    depend on the images. run: how many of them the train op depends on, None where the graph has no train op or no
    updates. optimizer: the type of the first update of weights, None where there is none.
    """

    collected: int
    updates: tuple[str, ...]
    run: int | None
    optimizer: str | None

    @property
    def train_op_runs_updates(self) -> bool | None:
        """Whether every update runs in a training step, None where the graph does not show it."""
        return None if self.run is None else self.run == len(self.updates)

    def lines(self) -> list[str]:
        """One or two lines for people."""
        if not self.updates:
            return ["the graph holds no update of its moving statistics: it was written without its training part"]
        kept = f", {self.collected} operations in UPDATE_OPS" if self.collected else ", none of them in UPDATE_OPS"
        many = f"{len(self.updates)} update{'s' if len(self.updates) > 1 else ''}"
        return [f"{many} of moving statistics in the graph{kept}", self.sentence]

    @property
    def sentence(self) -> str:
        """Whether a training step runs the updates."""
        what = f"{self.collected} update operations" if self.collected else f"{len(self.updates)} updates"
        if self.run is None:
            return "the graph has no train op: whether it runs the updates is not known"
        if self.run == 0:
            return f"the graph's train op ({self.optimizer}) does not depend on its {what}"
        if self.run < len(self.updates):
            return f"the graph's train op ({self.optimizer}) runs only {self.run} of the {len(self.updates)} updates"
        return f"the graph's train op ({self.optimizer}) runs all {self.run} updates"


def find_wiring(graph: Graph, moving: Iterable[str], collections: Mapping[str, tuple[str, ...]]) -> Wiring:
    """The wiring of a whole graph, folded for batch statistics, whose images are the placeholder `IMAGES`.

    `moving` are the variables of the moving statistics, `collections` those of the meta graph.
    """
    updates = find_updates(graph, set(moving))
    applying = [node.name for node in graph.nodes.values() if _APPLY.match(node.op)]
    roots = [name for text in collections.get(TRAIN_OP, ()) if (name := parse_ref(text).node) in graph.nodes]
    optimizer = graph.nodes[applying[0]].op if applying else None
    run = None
    if updates and (roots or applying):
        # Updates may come before a train op, or before a node that waits for it: `tf.group(train_op, *update_ops)`.
        needed = graph.ancestors(graph.descendants([*roots, *applying], control=True))
        run = sum(name in needed for name in updates)
    return Wiring(len(collections.get(UPDATE_OPS, ())), tuple(updates), run, optimizer or (roots[0] if roots else None))


def find_updates(graph: Graph, moving: set[str]) -> list[str]:
    """Assignments to `moving` that depend on the images. Initialising and restoring do not."""
    if IMAGES not in graph.nodes:
        return []
    seen = graph.descendants([IMAGES])
    return [
        node.name
        for node in graph.nodes.values()
        if node.op in ASSIGNMENTS
        and graph.source(node.inputs[0]).node in moving
        and any(ref.node in seen for ref in node.inputs[1:])
    ]
