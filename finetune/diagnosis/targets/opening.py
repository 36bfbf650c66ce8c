"""Open whatever a user names, by the function for its kind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from checkpoints.formats.location import other_format, saved_model_directory
from finetune.backbone import SUFFIXES, find_backbone, is_preset, model_path
from finetune.data.batches import fitting
from finetune.diagnosis.targets import foreign_model
from finetune.diagnosis.targets.options import TargetOptions
from finetune.diagnosis.targets.run import open_run_target
from finetune.diagnosis.targets.target import Target
from finetune.errors import FinetuneError, WrongUse

__all__ = ["Target", "is_run", "open_target"]
_GRAPH_ONLY = ("input", "logits", "is_training", "input_layout", "feed")


def open_target(request: TargetOptions) -> Target:
    """Open what `request` names, with its data. Raises WrongUse for options that contradict each other."""
    opener = _opener(request)
    if opener is foreign_model.open_catalogued and (two_files := _of_two_files(request)):
        request, opener = two_files, foreign_model.open_keras_model
    if opener is not foreign_model.open_tf_graph:
        wrong = set(_GRAPH_ONLY) - ({"input_layout"} if opener is foreign_model.open_saved_model else set())
        given = [f"--{name.replace('_', '-')}" for name in _GRAPH_ONLY if name in wrong and getattr(request, name)]
        if given:
            raise WrongUse(f"{given[0]} is for TF1 graphs: give --meta-graph FILE.meta with it, or leave it out")
    if request.ema and opener not in (foreign_model.open_tf_graph, foreign_model.open_catalogued):
        raise WrongUse("--ema is for TF1 checkpoints: give --backbone and --checkpoint, or --meta-graph")
    if request.output and opener not in (foreign_model.open_keras_model, foreign_model.open_saved_model):
        raise WrongUse("--output is for Keras models and SavedModels with several outputs: leave it out")
    if request.architecture and opener is not foreign_model.open_keras_model:
        raise WrongUse("--architecture is for a file of weights alone, given as the model: leave it out")
    target = opener(request)
    if target.data.dataset is None:
        return target
    said = fitting(target.data.dataset.train, target.data.config)
    return replace(target, notes=(*target.notes, *(f"data: {one}" for one in said)))


def _opener(request: TargetOptions) -> Callable[[TargetOptions], Target]:
    """The function that opens it."""
    models = {request.target: request.target, "--backbone": request.backbone, "--meta-graph": request.meta_graph}
    named = [str(name) for name, given in models.items() if given]
    if len(named) > 1:
        raise WrongUse(f"{' and '.join(named)} name two models: give one of them")
    if request.meta_graph:
        return foreign_model.open_tf_graph
    if request.backbone:
        return foreign_model.open_catalogued
    if request.target is None:
        raise WrongUse(
            "missing the model to examine: a run directory, a .keras or .h5 file, a SavedModel directory; or "
            "--backbone NAME --checkpoint PATH; or --meta-graph FILE.meta"
        )
    path = request.target
    if request.architecture is not None:
        return foreign_model.open_keras_model
    if request.checkpoint is not None:
        raise WrongUse(f"--checkpoint goes with --backbone or --meta-graph, not with {path}: leave one of them out")
    if is_preset(path):
        raise FinetuneError(
            f"{path} is a KerasHub preset, a backbone without a head: expected a model that classifies; train one with "
            f"finetune run --backbone {path}, and examine the run"
        )
    if is_run(path):
        return open_run_target
    if path.suffix in SUFFIXES:
        return foreign_model.open_keras_model
    if saved_model_directory(path) is not None:
        return foreign_model.open_saved_model
    raise FinetuneError(_unknown(path))


def _of_two_files(request: TargetOptions) -> TargetOptions | None:
    """A model file and weights for it, given as to `run`, as with `--architecture`; None for other backbones."""
    if not request.backbone or request.checkpoint is None:
        return None
    spec = find_backbone(request.backbone, output=request.output)
    if not spec.whole_model:
        return None
    return replace(request, target=request.checkpoint, architecture=model_path(spec), backbone=None, checkpoint=None)


def is_run(path: Path) -> bool:
    """Whether a path is a run directory, or a `.keras` file in one."""
    folder = path if path.is_dir() else path.parent
    return (folder / "config.json").is_file() and (path.is_dir() or path.suffix == ".keras")


def _unknown(path: Path) -> str:
    """The message for a path of no known kind: what it looks like, and the option to give it with."""
    if path.suffix == ".meta" or Path(f"{path}.meta").is_file():
        return f"{path} is a TF1 graph: give it with --meta-graph {path.with_suffix('.meta') if path.suffix else path}"
    if path.is_dir() and ((path / "checkpoint").is_file() or list(path.glob("*.index"))):
        return (
            f"{path} is a training directory: give --backbone NAME --checkpoint {path}, or, for a graph of your own, "
            f"--meta-graph {path}"
        )
    if Path(f"{path}.index").is_file():
        return (
            f"{path} is a checkpoint: give --backbone NAME --checkpoint {path}; where Keras's model.save_weights wrote "
            f"it, {path} with --architecture FILE, the model it is of (.keras, .h5 or the JSON of model.to_json())"
        )
    if path.is_file() and (what := other_format(path)):
        return f"{path} {what}"
    there = "" if path.exists() else "; there is nothing of that name"
    return (
        f"{path} cannot be examined: expected a run directory with config.json in it, a Keras model (.keras, .h5) or a "
        f"SavedModel directory{there}"
    )
