"""Graphs as `Subject`s, whatever wrote them: a TF1 `.meta` file with its checkpoint, a SavedModel that only infers."""

from finetune.diagnosis.graph.exported import ExportedSubject, open_exported
from finetune.diagnosis.graph.opening import open_graph
from finetune.diagnosis.graph.roles import LAYOUTS
from finetune.diagnosis.graph.saved_model import takes_training
from finetune.diagnosis.graph.subject import GraphFacts, GraphSubject

__all__ = [
    "LAYOUTS", "ExportedSubject", "GraphFacts", "GraphSubject", "open_exported", "open_graph", "takes_training",
]  # fmt: skip
