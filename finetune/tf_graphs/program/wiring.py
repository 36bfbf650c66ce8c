"""How a graph updates its moving statistics, and whether its train op does."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from checkpoints.formats.operations import ASSIGNMENTS
from finetune.tf_graphs.program.graphdef import parse_ref
from finetune.tf_graphs.program.nodes import IMAGES, Graph, Ref

UPDATE_OPS, TRAIN_OP = "update_ops", "train_op"
_APPLY = re.compile(r"^(Resource)?(Sparse)?Apply[A-Z]")


@dataclass(frozen=True)
class Wiring:
    """collected: operations in the collection UPDATE_OPS. updates: assignments to moving statistics (node names) that
    depend on the images. run: how many of them the train op depends on, None where the graph has no train op or no
    updates. optimizer: the type of its first update of weights, None where there is none.
    """

    collected: int
    updates: tuple[str, ...]
    run: int | None
    optimizer: str | None

    @property
    def train_op_runs_updates(self) -> bool | None:
        """Whether every update runs with a training step, None where the graph does not say."""
        return None if self.run is None else self.run == len(self.updates)

    def lines(self) -> list[str]:
        """What a person should know of it."""
        if not self.updates:
            return ["the graph holds no update of its moving statistics: it was written without its training part"]
        kept = f", {self.collected} operations in UPDATE_OPS" if self.collected else ", none of them in UPDATE_OPS"
        lines = [
            f"{len(self.updates)} update{'s' if len(self.updates) > 1 else ''} of moving statistics in the graph{kept}"
        ]
        return [*lines, self.sentence]

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


def wiring(graph: Graph, moving: Iterable[str], collections: Mapping[str, tuple[str, ...]]) -> Wiring:
    """Look at `graph`, the whole one folded the training way, whose images are a placeholder of ours.

    `moving` are the variables of the moving statistics, `collections` those of the meta graph.
    """
    updates = find_updates(graph, set(moving))
    applying = [node.name for node in graph.nodes.values() if _APPLY.match(node.op)]
    roots = [name for text in collections.get(TRAIN_OP, ()) if (name := parse_ref(text).node) in graph.nodes]
    optimizer = graph.nodes[applying[0]].op if applying else None
    run = None
    if updates and (roots or applying):
        run = _run(graph, updates, roots, applying)
    return Wiring(len(collections.get(UPDATE_OPS, ())), tuple(updates), run, optimizer or (roots[0] if roots else None))


def find_updates(graph: Graph, moving: set[str]) -> list[str]:
    """Assignments to `moving` of what depends on the images: neither initialising nor restoring."""
    if IMAGES not in graph.nodes:
        return []
    seen = graph.descendants([IMAGES])
    return [
        node.name
        for node in graph.nodes.values()
        if node.op in ASSIGNMENTS
        and _target(graph, node.inputs[0]) in moving
        and any(ref.node in seen for ref in node.inputs[1:])
    ]


def _target(graph: Graph, ref: Ref) -> str:
    return graph.source(ref).node


def _run(graph: Graph, updates: list[str], roots: list[str], applying: list[str]) -> int:
    """How many updates a training step runs: those before a train op, or that one node has after itself, as a train op
    of both (`tf.group(train_op, *update_ops)`)."""
    needed = graph.ancestors(graph.descendants([*roots, *applying], control=True))
    return sum(name in needed for name in updates)
