"""The moving statistics a model was fine-tuned from, out of the checkpoint it was fine-tuned from."""

from pathlib import Path

from checkpoints.formats import open_checkpoint
from finetune.batchnorm.subject import Snapshot, Subject
from finetune.errors import FinetuneError

_NAMES = ("moving_mean", "moving_variance")


def read(path: Path, subject: Subject) -> Snapshot:
    """The statistics of every BN layer that the file has too, by the layer's name and the number of its channels.

    Names are slim's scopes (`/` or `.`) or Keras's layer names. Raises CheckpointError where the file cannot be read,
    FinetuneError where it has none of the subject's layers.
    """
    file = open_checkpoint(path)
    now = subject.snapshot()
    found = {}
    for layer in subject.layers:
        shape = now[layer.name][0].shape
        for prefix in (layer.name, layer.name.replace(".", "/")):
            mean, variance = (f"{prefix}/{name}" for name in _NAMES)
            if file.shapes.get(mean) == file.shapes.get(variance) == shape:
                found[layer.name] = (file.read(mean), file.read(variance))
    if not found:
        have = [name.removesuffix("/moving_mean") for name in file.shapes if name.endswith("/moving_mean")]
        raise FinetuneError(
            f"--source-checkpoint {path} has none of the model's BN layers: the model's are called "
            f"{subject.layers[0].name} and the like, the file's {have[0] if have else 'otherwise: it has none'}; give "
            "the checkpoint the model was fine-tuned from"
        )
    return found
