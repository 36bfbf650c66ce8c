"""A fine-tuned slim backbone as a TF1 slim checkpoint."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from checkpoints.catalog.lookup import BackboneSpec
from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import write_slim
from checkpoints.matching.fit import fits
from finetune.backbone import conversion
from finetune.backbone.networks.names import slim_variables
from finetune.errors import FinetuneError, WrongUse
from finetune.files import write_text
from finetune.inference.export.auxiliary import auxiliary_head
from finetune.inference.export.exportable import LABELS, Runtime, Source, one_line
from finetune.inference.export.exported import Exported
from finetune.inference.export.to_keras import keras_runtime
from finetune.text import shape_of


def places(out: Path) -> list[Path]:
    """Every file that is written for the prefix `out`. WrongUse for the ending of another format."""
    if conversion.format_of(out) != "slim-v2":
        raise WrongUse(f"--out {out} has the ending of a Keras file: expected a prefix such as model.ckpt")
    return [out, *_files(out)]


def _files(out: Path) -> tuple[Path, Path, Path, Path]:
    """The index, the data, the `checkpoint` file that names them, and the class names."""
    index, data = Path(f"{out}.index"), Path(f"{out}.data-00000-of-00001")
    return index, data, out.with_name("checkpoint"), out.with_name(LABELS)


def check(source: Source) -> None:
    """FinetuneError for a backbone without slim names, a head with a hidden layer, or preprocessing inside."""
    if source.with_preprocessing:
        raise FinetuneError(
            "--with-preprocessing: a slim checkpoint holds variables and no graph, so there is nowhere to put it: "
            "leave it out, or give another --format"
        )
    config, found = source.config, fits(open_checkpoint(source.path))[0]
    if source.module is not None:
        raise FinetuneError(f"{config.backbone} is a Hub module: it has no slim names, and no slim network restores it")
    if config.hidden:
        raise FinetuneError(
            f"the head has a hidden layer of {config.hidden}, which slim's networks have no place for: train without "
            "--hidden"
        )
    if not found.exact or found.spec.source == "keras":
        raise FinetuneError(
            f"{source.path} has no slim names ({config.backbone}): only a run on a slim backbone, such as "
            "slim/resnet_v1_50, exports to a slim checkpoint"
        )


def write(source: Source, out: Path) -> Exported:
    """Write a run under slim's names: `out.index` and `out.data-…`, `checkpoint` and `labels.txt` beside them.

    The head's `[channels, classes]` kernel becomes slim's 1x1 convolution; `global_step` is the run's. `checkpoint` is
    what `tf.train.latest_checkpoint` reads, `labels.txt` what slim's `dataset_utils.read_label_file` does.
    """
    found = fits(open_checkpoint(source.path))[0]
    spec = found.spec
    model, _ = conversion.load_stock(open_checkpoint(source.path), found, image_size=spec.least_size)
    arrays = {name: np.asarray(variable) for name, variable in slim_variables(model).items()}
    given = source.config.checkpoint
    auxiliary, note = auxiliary_head(
        spec,
        side=min(source.network[:2]),
        outputs=int(found.outputs or 0),
        source=Path(given) if given else None,
    )
    index, data, state, labels = _files(out)
    write_text(labels, "".join(f"{label}:{one_line(name)}\n" for label, name in enumerate(source.class_names)))
    write_slim(out, {**arrays, **auxiliary, "global_step": np.array(source.steps, np.int64)})
    write_text(state, _state(out))
    what = f"{len(arrays)} variables of {spec.id} with {found.outputs} outputs, global_step {source.steps}"
    return Exported("slim", out, (index, data, state, labels), what, tuple(filter(None, (*_notes(spec, source), note))))


def open_runtime(source: Source, out: Path) -> Runtime:
    """The checkpoint read by this package into the network of its row, with the epsilon that the notes ask for."""
    opened = open_checkpoint(out)
    model, _ = conversion.load_stock(opened, fits(opened)[0], image_size=source.network[:2])
    if source.config.bn_epsilon is not None:
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.epsilon = source.config.bn_epsilon
    return keras_runtime(model)


def _state(out: Path) -> str:
    """The `checkpoint` file of a directory whose newest checkpoint is `out` (a CheckpointState message as text)."""
    from google.protobuf import text_format

    state = tf.compat.v1.train.generate_checkpoint_state_proto(str(out.absolute().parent), out.name)
    return str(text_format.MessageToString(state))


def _notes(spec: BackboneSpec, source: Source) -> list[str]:
    """Settings that a checkpoint does not hold, and that must be set in slim."""
    config = source.config
    notes = source.notes()
    if config.bn_epsilon is not None and config.bn_epsilon != spec.bn_epsilon:
        notes.append(
            f"trained with BatchNorm epsilon {config.bn_epsilon:g}, slim's own is {spec.bn_epsilon:g}: set it in the "
            "arg_scope, or the outputs differ"
        )
    sides = shape_of(config.image_size or 224)[:2]
    if spec.family == "inception_v1" and not 193 <= min(sides) <= max(sides) <= 224:
        notes.append(
            f"tf_slim's inception_v1 ends in a 7x7 pooling, for images of 193 to 224 px: at {config.image_size} px put "
            "a global mean in its place"
        )
    return notes
