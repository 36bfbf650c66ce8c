"""The way back: a fine-tuned slim backbone as a TF1 slim checkpoint."""

from pathlib import Path

import keras
import numpy as np

from checkpoints.catalog import BackboneSpec
from checkpoints.formats.slim_writer import write_slim
from finetune import networks
from finetune.classifier import LOGITS
from finetune.errors import FinetuneError
from finetune.networks.names import slim_variables


def to_slim(model: keras.Model, spec: BackboneSpec, prefix: Path) -> list[str]:
    """Write `model`, a classifier on the slim backbone `spec`, under slim's names; returns them.

    The head's `[channels, classes]` kernel becomes slim's 1x1 convolution `[1, 1, channels, classes]`.
    Raises FinetuneError for a backbone without slim names or a head with a hidden layer.
    """
    if spec.source in ("keras", "file", "hub"):
        raise FinetuneError(f"{spec.id} has no slim names: only slim backbones export to a slim checkpoint")
    if any(layer.name == "head.hidden" for layer in model.layers):
        raise FinetuneError("the head has a hidden layer, which slim's network has not: train without --hidden")
    outputs = int(model.output_shape[-1])
    whole = networks.build(
        spec.family,
        image_size=model.input_shape[1:3],
        outputs=outputs,
        arguments=spec.arguments,
    )
    trained = slim_variables(model)
    arrays = {}
    for name, variable in slim_variables(whole.model).items():
        source = trained.get(name)
        if source is None:
            head = model.get_layer(LOGITS)
            source = head.kernel if name.endswith("weights") else head.bias
        arrays[name] = np.reshape(np.asarray(source), variable.shape)
    write_slim(prefix, arrays)
    return sorted(arrays)
