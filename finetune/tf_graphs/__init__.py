"""Graphs as `Subject`s, whatever wrote them: a TF1 `.meta` file with its checkpoint, a SavedModel that only infers."""

from finetune.tf_graphs.exported import ExportedSubject, open_exported
from finetune.tf_graphs.opening import open_graph
from finetune.tf_graphs.program.roles import LAYOUTS
from finetune.tf_graphs.program.saved_model import takes_training
from finetune.tf_graphs.subject import GraphFacts, GraphSubject

__all__ = [
    "LAYOUTS", "ExportedSubject", "GraphFacts", "GraphSubject", "open_exported", "open_graph", "takes_training",
]  # fmt: skip
