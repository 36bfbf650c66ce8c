"""One way in: whatever a user names is opened by the module for its kind."""

import importlib
from pathlib import Path

from finetune.backbone.hub.signatures import is_saved_model
from finetune.backbone.keras_file import SUFFIXES
from finetune.diagnosis.targets.options import TargetOptions
from finetune.diagnosis.targets.target import Target
from finetune.errors import FinetuneError, WrongUse

_GRAPH_ONLY = ("input", "logits", "is_training", "input_layout", "feed")


def open_target(request: TargetOptions) -> Target:
    """Open what `request` names, with its data. Raises WrongUse for options that contradict each other."""
    kind = _kind(request)
    if kind != "meta_graph":
        given = [f"--{name.replace('_', '-')}" for name in _GRAPH_ONLY if getattr(request, name)]
        if given:
            raise WrongUse(f"{given[0]} is for TF1 graphs: give --meta-graph FILE.meta with it, or leave it out")
    if request.ema and kind not in ("meta_graph", "catalogued"):
        raise WrongUse("--ema is for TF1 checkpoints: give --backbone and --checkpoint, or --meta-graph")
    # Each kind needs its own part of TensorFlow: only the one that is asked for is imported.
    module = importlib.import_module(f"finetune.diagnosis.targets.{kind}")
    opened: Target = module.open_target(request)
    return opened


def _kind(request: TargetOptions) -> str:
    """The module of this package that opens it."""
    named = [words for words, given in (
        (f"{request.target}", request.target), ("--backbone", request.backbone), ("--meta-graph", request.meta_graph)
    ) if given]  # fmt: skip
    if len(named) > 1:
        raise WrongUse(f"{' and '.join(named)} name two models: give one of them")
    if request.meta_graph:
        return "meta_graph"
    if request.backbone:
        return "catalogued"
    if request.target is None:
        raise WrongUse(
            "missing the model to examine: a run directory, a .keras or .h5 file, a SavedModel directory; or "
            "--backbone NAME --checkpoint PATH; or --meta-graph FILE.meta"
        )
    path = request.target
    if request.checkpoint is not None:
        raise WrongUse(f"--checkpoint goes with --backbone or --meta-graph, not with {path}: leave one of them out")
    folder = path if path.is_dir() else path.parent
    if (folder / "config.json").is_file() and (path.is_dir() or path.suffix == ".keras"):
        return "run"
    if path.suffix in SUFFIXES:
        return "keras_model"
    if path.is_dir() and is_saved_model(path):
        return "saved_model"
    raise FinetuneError(_unknown(path))


def _unknown(path: Path) -> str:
    if path.suffix == ".meta" or Path(f"{path}.meta").is_file():
        return f"{path} is a TF1 graph: give it with --meta-graph {path.with_suffix('.meta') if path.suffix else path}"
    if path.is_dir() and ((path / "checkpoint").is_file() or list(path.glob("*.index"))):
        return (
            f"{path} is a training directory: give --backbone NAME --checkpoint {path}, or, for a graph of your own, "
            f"--meta-graph {path}"
        )
    if Path(f"{path}.index").is_file():
        return f"{path} is a checkpoint: give --backbone NAME --checkpoint {path}"
    there = "" if path.exists() else "; there is nothing of that name"
    return (
        f"{path} cannot be examined: expected a run directory with config.json in it, a Keras model (.keras, .h5) or a "
        f"SavedModel directory{there}"
    )
