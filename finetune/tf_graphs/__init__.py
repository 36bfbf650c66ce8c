"""Graphs as `Subject`s, whatever wrote them: a TF1 `.meta` file with its checkpoint, a SavedModel that only infers."""

from finetune.tf_graphs.graph_subject import GraphFacts, GraphSubject
from finetune.tf_graphs.open_meta_graph import open_graph
from finetune.tf_graphs.open_saved_model import ExportedSubject, open_exported
from finetune.tf_graphs.program.roles import LAYOUTS
from finetune.tf_graphs.program.saved_graph import takes_training

__all__ = [
    "LAYOUTS", "ExportedSubject", "GraphFacts", "GraphSubject", "open_exported", "open_graph", "takes_training",
]  # fmt: skip
