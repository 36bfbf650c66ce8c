"""A fine-tuned slim backbone as a TF1 slim checkpoint."""

from contextlib import suppress
from pathlib import Path

import numpy as np

from checkpoints.catalog import BackboneSpec
from checkpoints.fit import fits
from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim_writer import write_slim
from finetune import backbone, conversion, models
from finetune.config import RunConfig
from finetune.errors import FinetuneError, WrongUse
from finetune.export.written import Exported
from finetune.files import write_text
from finetune.networks.names import slim_variables

_STATE, _LABELS = "checkpoint", "labels.txt"


def write(target: Path, out: Path) -> Exported:
    """Write a run under slim's names: `out.index` and `out.data-…`, `checkpoint` and `labels.txt` beside them.

    The head's `[channels, classes]` kernel becomes slim's 1x1 convolution; `global_step` is the run's. `checkpoint` is
    what `tf.train.latest_checkpoint` reads, `labels.txt` what slim's `dataset_utils.read_label_file` does.
    Raises FinetuneError for a backbone without slim names or a head with a hidden layer, WrongUse where one of the
    files is there already.
    """
    run, config, path = models.find_trained(target)
    result = run.read("result.json", "class_names", "steps")
    beside = [out.with_name(_STATE), out.with_name(_LABELS)]
    conversion.check_free(out)
    for file in beside:
        if file.exists() or file.is_symlink():
            raise WrongUse(f"{file} is already there and is not overwritten: give an --out in a directory of its own")
    if conversion.format_of(out) != "slim-v2":
        raise WrongUse(f"--out {out} has the ending of a Keras file: expected a prefix such as model.ckpt")
    found = fits(open_checkpoint(path))[0]
    spec = found.spec
    _check_slim(spec if found.exact else None, config, path)
    model, _ = conversion.load_stock(open_checkpoint(path), found, image_size=spec.least_size)
    arrays = {name: np.asarray(variable) for name, variable in slim_variables(model).items()}
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    files = (Path(f"{out}.index"), Path(f"{out}.data-00000-of-00001"), *beside)
    try:
        write_text(beside[1], "".join(f"{label}:{name}\n" for label, name in enumerate(result["class_names"])))
        write_slim(out, {**arrays, "global_step": np.array(result["steps"], np.int64)})
        write_text(beside[0], _state(out))  # last: whoever finds it finds what it names
    except BaseException:
        for file in files:
            with suppress(OSError):
                file.unlink(missing_ok=True)
        raise
    what = f"{len(arrays)} variables of {spec.id} with {found.outputs} outputs, global_step {result['steps']}"
    return Exported("slim", out, files, what, tuple(_notes(spec, config)))


def _check_slim(spec: BackboneSpec | None, config: RunConfig, path: Path) -> None:
    """Raise FinetuneError where the model in `path` is no network with slim's names."""
    if backbone.module_handle(config.backbone) is not None:
        raise FinetuneError(f"{config.backbone} is a Hub module: it has no slim names, and no slim network restores it")
    if config.hidden:
        raise FinetuneError(
            f"the head has a hidden layer of {config.hidden}, which slim's networks have no place for: train without "
            "--hidden"
        )
    if spec is None or spec.source == "keras":
        raise FinetuneError(
            f"{path} has no slim names ({config.backbone}): only a run on a slim backbone, such as slim/resnet_v1_50, "
            "exports to a slim checkpoint"
        )


def _state(out: Path) -> str:
    """The `checkpoint` file of a directory whose newest checkpoint is `out` (a CheckpointState message as text)."""
    import tensorflow as tf
    from google.protobuf import text_format

    state = tf.compat.v1.train.generate_checkpoint_state_proto(str(out.absolute().parent), out.name)
    return str(text_format.MessageToString(state))


def _notes(spec: BackboneSpec, config: RunConfig) -> list[str]:
    """What a checkpoint does not hold, and slim must be told."""
    notes = [f"feed images of {config.image_size} px with the preprocessing '{config.preprocess}'"]
    if config.bn_epsilon is not None and config.bn_epsilon != spec.bn_epsilon:
        notes.append(
            f"trained with BatchNorm epsilon {config.bn_epsilon:g}, slim's own is {spec.bn_epsilon:g}: set it in the "
            "arg_scope, or the outputs differ"
        )
    if spec.family == "inception_v1" and config.image_size and not 193 <= config.image_size <= 224:
        notes.append(
            f"tf_slim's inception_v1 ends in a 7x7 pooling, for images of 193 to 224 px: at {config.image_size} px put "
            "a global mean in its place"
        )
    return notes
