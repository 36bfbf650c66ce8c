"""Networks to train from random weights: the baseline that a pretrained one has to beat. None has published weights.

Pixels are scaled to [-1, 1] (`inception`), as the source of `cifar_resnet` does: it asks for no statistics of a data
set that may not be the user's, and BatchNorm behind the first convolution takes any other affine scaling back out.
"""

from typing import Any

from checkpoints.catalog.spec import BackboneSpec


def _row(
    name: str, family: str, arguments: dict[str, Any], *, least_size: int, parameters: int, reference: str
) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        source="scratch",
        family=family,
        arguments={**arguments, "scope": name},
        preprocessing="inception",
        image_size=32,
        least_size=least_size,
        head=(f"{name}/logits/*",),
        bn_decay=0.9,
        bn_epsilon=1e-5,
        parameters=parameters,
        reference=reference,
    )


_RESNET = "He et al. 2015, arXiv 1512.03385; kuangliu/pytorch-cifar models/resnet.py"

SCRATCH: tuple[BackboneSpec, ...] = (
    _row(
        "cifar_resnet",
        "cifar_resnet",
        {"units": (2, 3, 2), "width": 32, "shortcut": "pad"},
        least_size=4,
        parameters=760_800,
        reference="He et al. 2015, arXiv 1512.03385, section 4.2; tensorflow/models tutorials/image/cifar10_estimator/"
        "model_base.py, of [n, n, n] units and 16 filters",
    ),
    _row(
        "cifar_resnet18",
        "cifar_resnet",
        {"units": (2, 2, 2, 2), "width": 64, "shortcut": "project"},
        least_size=8,
        parameters=11_178_432,
        reference=_RESNET,
    ),
    _row(
        "cifar_resnet34",
        "cifar_resnet",
        {"units": (3, 4, 6, 3), "width": 64, "shortcut": "project"},
        least_size=8,
        parameters=21_294_016,
        reference=_RESNET,
    ),
    _row(
        "cifar_vgg",
        "cifar_vgg",
        {},
        least_size=16,
        parameters=14_727_360,
        reference="Simonyan & Zisserman 2014, arXiv 1409.1556, configuration D; kuangliu/pytorch-cifar models/vgg.py",
    ),
)
