"""TF1 graphs and exported SavedModels as `Subject`s, whatever program wrote them."""

from finetune.tf_graphs.graph_subject import GraphSubject
from finetune.tf_graphs.open_meta_graph import open_graph
from finetune.tf_graphs.open_saved_model import open_exported
from finetune.tf_graphs.program.saved_graph import takes_training

__all__ = ["GraphSubject", "open_exported", "open_graph", "takes_training"]
