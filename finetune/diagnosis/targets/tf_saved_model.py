"""A SavedModel: called for training where it takes that argument (Keras 2, Hub modules), else read as a graph."""

from pathlib import Path

from finetune.backbone import find_backbone, load_backbone
from finetune.batchnorm.surgery import bn_layers
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.targets.keras_model import keras_target
from finetune.diagnosis.targets.options import TargetOptions
from finetune.diagnosis.targets.target import Target, read_data
from finetune.diagnosis.targets.tf_graph import open_tf_graph
from finetune.errors import FinetuneError
from finetune.tf_graphs import takes_training


def open_saved_model(request: TargetOptions) -> Target:
    """The SavedModel of `request.target`, whose output is logits.

    One without a `training` argument (`model.export` of Keras 3) is read as data, and its batch mode is added to its
    graph. Raises FinetuneError where its BatchNorm is out of reach.
    """
    path = Path(str(request.target))
    if not (path / "tfhub_module.pb").is_file() and not takes_training(path):
        return open_tf_graph(request)
    spec = find_backbone(str(path))
    image_size = request.image_size or spec.image_size
    model = load_backbone(spec, image_size=image_size).model
    if not bn_layers(model):
        raise FinetuneError(f"{path} has no BatchNormalization that can be reached: there is nothing to examine")
    data = read_data(request, image_size=image_size, preprocess=None)

    def write(out: Path) -> None:
        raise FinetuneError(
            f"{path} is a SavedModel that is called for training, and no copy of such a model can be written: "
            "recalibrate the .keras file it was exported from, or its slim checkpoint"
        )

    return keras_target(request, model, data, Facts(decay=request.bn_decay), write)
