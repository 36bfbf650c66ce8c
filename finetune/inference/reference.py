"""Run the original of a network, where an installed library can build it, with the weights of the same file.

slim's networks are built by `tf_slim` in a TF1 graph and restored by TF1's own `Saver`; Keras's are
`keras.applications` with Keras's own `load_weights`. Nothing of this package builds, names or loads anything here.
"""

import importlib.metadata
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from checkpoints.catalog.lookup import BackboneSpec
from checkpoints.formats.checkpoint import Checkpoint
from finetune._version import install_line
from finetune.errors import FinetuneError
from finetune.text import first_line

IN_TF_SLIM = ("resnet_v1", "resnet_v2", "inception_v1", "inception_v2", "inception_v3", "vgg")
"""Families that tf_slim 1.1.0 has; the others are in tensorflow/models, which no package installs."""

_KERAS_READS = {"keras-h5": ".h5", "keras-weights-h5": ".weights.h5", "keras-zip": ".keras"}


class NoReference(Exception):
    """The original cannot be run. The message is the reason, for people."""


def check_installed(spec: BackboneSpec) -> None:
    """FinetuneError, with the command that installs it, where tf_slim has the original and is not installed."""
    if spec.family in IN_TF_SLIM and importlib.util.find_spec("tf_slim") is None:
        raise FinetuneError(
            f"{spec.id} is verified by running tf_slim's own network, and tf_slim is not installed: "
            f"{install_line('slim')}"
        )


def name(spec: BackboneSpec, opened: Checkpoint) -> str:
    """The library that builds the original of `spec` and reads `opened` into it, with its version.

    Raises NoReference where there is none.
    """
    if spec.family in IN_TF_SLIM:
        if not opened.kind.startswith("slim"):
            raise NoReference(f"tf_slim reads TF checkpoints, and this is a {opened.kind} file")
        return f"tf_slim {importlib.metadata.version('tf-slim')}"
    if spec.family == "keras_applications":
        if opened.kind not in _KERAS_READS:
            raise NoReference(f"Keras reads files of weights, and this is a {opened.kind} one")
        return f"keras.applications {keras.__version__}"
    raise NoReference(f"no reference installed for {spec.id}: neither tf_slim nor keras.applications has it")


def run(
    spec: BackboneSpec,
    opened: Checkpoint,
    images: np.ndarray,
    *,
    outputs: int | None,
    names: Mapping[str, str] | None = None,
) -> np.ndarray:
    """The original's outputs for preprocessed float32 `[batch, height, width, 3]`, with the weights of `opened`.

    Logits `[batch, outputs]`; or without `outputs` the pooled features `[batch, channels]`. `names` maps the
    original's variables to the file's names where they differ (a file with a scope around the network).
    Raises NoReference where there is no original, or it refuses the file.
    """
    name(spec, opened)
    if spec.family in IN_TF_SLIM:
        return _slim(spec, opened, images, outputs, names or {})
    return _keras(spec, opened, images, outputs)


def _slim(
    spec: BackboneSpec, opened: Checkpoint, images: np.ndarray, outputs: int | None, names: Mapping[str, str]
) -> np.ndarray:
    with tf1_graph():
        placeholder = tf.compat.v1.placeholder(tf.float32, images.shape)
        logits = slim_logits(spec.family, placeholder, outputs or 1, **spec.arguments)
        fetched = logits if outputs else before_logits(logits)
        saver = tf.compat.v1.train.Saver(
            {
                names.get(variable.op.name, variable.op.name): variable
                for variable in tf.compat.v1.global_variables()
                if outputs or not any(fnmatchcase(variable.op.name, pattern) for pattern in spec.head)
            }
        )
        with tf.compat.v1.Session() as session:
            try:
                saver.restore(session, str(opened.path))
            except (tf.errors.OpError, ValueError) as error:
                raise NoReference(f"TF1's Saver does not restore it ({first_line(error)})") from error
            return np.asarray(session.run(fetched, {placeholder: images})).reshape(len(images), -1)


def _keras(spec: BackboneSpec, opened: Checkpoint, images: np.ndarray, outputs: int | None) -> np.ndarray:
    arguments = {key: value for key, value in spec.arguments.items() if key != "application"}
    head: dict[str, Any] = {"include_top": False, "pooling": "avg"}
    if outputs:
        head = {"include_top": True, "classes": outputs, "classifier_activation": None}
    application = getattr(keras.applications, spec.arguments["application"])
    model = application(weights=None, input_shape=images.shape[1:], **head, **arguments)
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"weights{_KERAS_READS[opened.kind]}"  # Keras chooses its reader by this ending
        link.symlink_to(opened.path.absolute())
        try:
            model.load_weights(link)
        except Exception as error:  # Keras raises whatever HDF5, zip and its own checks raise
            raise NoReference(f"Keras's load_weights refuses it ({first_line(error)})") from error
    return np.asarray(model(images, training=False))


@contextmanager
def tf1_graph() -> Iterator[None]:
    """A new TF1 graph to build slim networks in. TensorFlow's global settings are restored afterwards.

    Inside, tensors are compared by identity, as in TF1: they hash twice as fast in slim's many sets.
    """
    mend()
    by_value = bool(getattr(tf.Tensor, "_USE_EQUALITY", True))
    tf.compat.v1.disable_tensor_equality()
    try:
        with warnings.catch_warnings(), tf.Graph().as_default():
            warnings.simplefilter("ignore")  # tf_slim calls what TensorFlow deprecates
            yield
    finally:
        if by_value:
            tf.compat.v1.enable_tensor_equality()


def mend() -> None:
    """Let `slim.batch_norm` of tf_slim 1.1.0 find a module that tf_keras 2.21 has at another place."""
    from tf_keras.src import legacy_tf_layers
    from tf_keras.src.legacy_tf_layers import normalization

    missing = "tf_keras.legacy_tf_layers"
    sys.modules.setdefault(missing, legacy_tf_layers)
    sys.modules.setdefault(f"{missing}.normalization", normalization)


def slim_logits(
    family: str, images: tf.Tensor, outputs: int, *, scope: str, is_training: bool = False, **arguments: Any
) -> tf.Tensor:
    """Slim's own network, without dropout: float32 `[batch, height, width, 3]` to logits `[batch, …, outputs]`.

    family: one of `IN_TF_SLIM`. `arguments` are those of a catalogue row. Call it inside `tf1_graph()`.
    """
    if family.startswith("resnet"):
        return _slim_resnet(family, images, outputs, scope, is_training, **arguments)
    if family == "vgg":
        return _slim_vgg(images, outputs, scope, is_training, **arguments)
    import tf_slim as slim
    from tf_slim.nets import inception

    # The auxiliary head of inception_v3 feeds nothing but its own loss, and a user's own file may lack it.
    auxiliary = {"create_aux_logits": False} if family == "inception_v3" else {}
    settings = {"dropout_keep_prob": 1.0, "scope": scope, **auxiliary, **arguments}
    with slim.arg_scope(getattr(inception, f"{family}_arg_scope")(weight_decay=0.0)):
        return getattr(inception, family)(images, outputs, is_training, **settings)[0]


def _slim_vgg(images: tf.Tensor, outputs: int, scope: str, is_training: bool, *, layers: Sequence[int]) -> tf.Tensor:
    """`tf_slim.nets.vgg.vgg_16` or `vgg_19`: logits `[batch, height', width', outputs]`, 1x1 places at 224 px."""
    import tf_slim as slim
    from tf_slim.nets import vgg

    network = {13: vgg.vgg_16, 16: vgg.vgg_19}[sum(layers)]
    with slim.arg_scope(vgg.vgg_arg_scope(weight_decay=0.0)):
        logits, _ = network(images, outputs, is_training, dropout_keep_prob=1.0, spatial_squeeze=False, scope=scope)
    return logits


def _slim_resnet(
    family: str,
    images: tf.Tensor,
    outputs: int,
    scope: str,
    is_training: bool,
    *,
    units: Sequence[int],
    width: int = 64,
    stem: str = "imagenet",
) -> tf.Tensor:
    """`tf_slim.nets.resnet_v1.resnet_v1`, or v2. It builds the stem too where the width is 64 and the stem slim's own.

    That function has no narrower or smaller stem. Others are built here from slim's layers.
    """
    import tf_slim as slim
    from tf_slim.nets import resnet_utils, resnet_v1, resnet_v2

    nets = {"resnet_v1": resnet_v1, "resnet_v2": resnet_v2}[family]
    block: Callable[..., Any] = getattr(nets, f"{family}_block")
    blocks = [
        block(f"block{i}", width * 2 ** (i - 1), count, stride=1 if i == len(units) else 2)
        for i, count in enumerate(units, start=1)
    ]
    whole = width == 64 and stem == "imagenet"
    # In v2 every unit normalises its own input: slim's first convolution then has a bias instead.
    plain: dict[str, Any] = {"activation_fn": None, "normalizer_fn": None} if family == "resnet_v2" else {}
    net = images
    with slim.arg_scope(nets.resnet_arg_scope(weight_decay=0.0)):
        if not whole:
            with tf.compat.v1.variable_scope(scope), slim.arg_scope([slim.batch_norm], is_training=is_training):
                if stem == "small":
                    net = slim.conv2d(net, width, 3, scope="conv1", **plain)
                else:
                    with slim.arg_scope([slim.conv2d], **plain):
                        net = resnet_utils.conv2d_same(net, width, 7, stride=2, scope="conv1")
                    net = slim.max_pool2d(net, [3, 3], stride=2, scope="pool1")
        logits, _ = getattr(nets, family)(net, blocks, outputs, is_training, include_root_block=whole, scope=scope)
        return logits


def before_logits(logits: tf.Tensor) -> tf.Tensor:
    """The input of the convolution that computes slim's logits: the pooled features `[batch, 1, 1, channels]`."""
    while logits.op.type != "Conv2D":  # after the convolution come the bias and the squeezing
        logits = logits.op.inputs[0]
    return logits.op.inputs[0]
