"""TF1 graphs and exported SavedModels as `Subject`s, whatever program wrote them."""

from finetune.tf_graphs.graph_opening import open_exported, open_graph
from finetune.tf_graphs.graph_subject import GraphSubject
from finetune.tf_graphs.program.endings import Ending
from finetune.tf_graphs.program.graph_files import called_ending, takes_training

__all__ = ["Ending", "GraphSubject", "called_ending", "open_exported", "open_graph", "takes_training"]
