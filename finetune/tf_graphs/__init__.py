"""TF1 graphs and exported SavedModels as `Subject`s, whatever program wrote them."""

from finetune.tf_graphs.graph_opening import open_exported, open_graph
from finetune.tf_graphs.graph_subject import GraphSubject
from finetune.tf_graphs.program.endings import Ending
from finetune.tf_graphs.program.graph_files import called_ending, takes_training
from finetune.tf_graphs.session import load_variables, outside_graphs, write_session

__all__ = ["Ending", "GraphSubject", "called_ending", "load_variables", "open_exported", "open_graph"]
__all__ += ["outside_graphs", "takes_training", "write_session"]
