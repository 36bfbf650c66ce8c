"""Any TF1 graph as a `Subject`: a `.meta` file with its checkpoint, whatever code wrote it."""

from finetune.diagnosis.graph.opening import open_graph
from finetune.diagnosis.graph.roles import LAYOUTS
from finetune.diagnosis.graph.subject import GraphFacts, GraphSubject

__all__ = ["LAYOUTS", "GraphFacts", "GraphSubject", "open_graph"]
