"""The rows of the catalogue, by source: TF-slim, networks to train from scratch, and the bundled weights.

A family is what its rows have in common. In every function, `facts` are the fields that the family does not decide.
"""

from typing import Any

from checkpoints.catalog.spec import BackboneSpec

Family = dict[str, Any]

CLASSES: Family = {"outputs": 1000, "label_offset": 0}
_BACKGROUND_FIRST: Family = {"outputs": 1001, "label_offset": 1}
AT_224: Family = {"image_size": 224, "least_size": 32}
AT_299: Family = {"image_size": 299, "least_size": 75}
NO_BATCHNORM: Family = {"bn_decay": None, "bn_epsilon": None}
_EVALUATED_AS_VGG: Family = {"evaluation": ("crop", 0.875)}  # the short side is resized to 256, 224 are cut out
_EVALUATED_AS_INCEPTION: Family = {"evaluation": ("squash", 0.875)}
"""slim's evaluations: preprocessing/vgg_preprocessing.py and inception_preprocessing.py of research/slim."""

# TF-slim's published checkpoints. No hash is published for them: the first fetch is recorded (`store.fetch`).

_MODELS = "http://download.tensorflow.org/models"
_MODELS_SOURCE = "tensorflow/models research/slim/nets"

_RESNET: Family = {"source": "slim", "least_size": 32, "bn_decay": 0.997, "bn_epsilon": 1e-5}
_RESNET_V1: Family = {
    **_RESNET,
    **_EVALUATED_AS_VGG,
    **CLASSES,  # trained without a background class, unlike slim's other networks: logit 0 is ImageNet class 0
    "family": "resnet_v1",
    "preprocessing": "vgg",
    "image_size": 224,
    "reference": "He et al. 2015, arXiv 1512.03385; tf_slim/nets/resnet_v1.py",
}
_RESNET_V2: Family = {
    **_RESNET,
    **_EVALUATED_AS_INCEPTION,
    **_BACKGROUND_FIRST,
    "family": "resnet_v2",
    "preprocessing": "inception",
    "image_size": 299,  # of the published accuracy; the code's default is 224
    "reference": "He et al. 2016, arXiv 1603.05027; tf_slim/nets/resnet_v2.py",
}
_INCEPTION: Family = {
    **_EVALUATED_AS_INCEPTION,
    **_BACKGROUND_FIRST,
    "source": "slim",
    "preprocessing": "inception",
    "bn_decay": 0.9997,
    "bn_epsilon": 1e-3,
}
"""Of Inception and MobileNet."""
_RESNET_UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
"""Residual units in each block, by depth."""


def _resnet(depth: int, family: Family, *, date: str | None, **facts: Any) -> BackboneSpec:
    """`date` is part of the published file's name; None where nothing is published."""
    scope = f"{family['family']}_{depth}"
    return BackboneSpec(
        name=scope,
        arguments={"units": _RESNET_UNITS[depth], "scope": scope},
        url=f"{_MODELS}/{scope}_{date}.tar.gz" if date else None,
        head=(f"{scope}/logits/*",),
        **family,
        **facts,
    )


def _inception(version: str, scope: str, date: str, size: Family, arxiv: str, **facts: Any) -> BackboneSpec:
    """`date` is part of the published file's name. The networks for 299 px have an auxiliary head."""
    name = f"inception_{version}"
    source = "tf_slim/nets" if version in ("v1", "v2", "v3") else _MODELS_SOURCE
    return BackboneSpec(
        name=name,
        family=name,
        arguments={"scope": scope},
        url=f"{_MODELS}/{name}_{date}.tar.gz",
        head=(f"{scope}/Logits/*",),
        auxiliary=(f"{scope}/AuxLogits/*",) if size is AT_299 else (),
        reference=f"Szegedy, Ioffe et al., arXiv {arxiv}; {source}/{name}.py",
        **(_INCEPTION | size | facts),
    )


def _mobilenet_v1(alpha: float, **facts: Any) -> BackboneSpec:
    name = f"mobilenet_v1_{alpha}"
    return BackboneSpec(
        name=name,
        family="mobilenet_v1",
        arguments={"depth_multiplier": alpha, "scope": "MobilenetV1"},
        url=f"{_MODELS}/mobilenet_v1_2018_08_02/{name}_224.tgz",
        head=("MobilenetV1/Logits/*",),
        reference=f"Howard et al. 2017, arXiv 1704.04861; {_MODELS_SOURCE}/mobilenet_v1.py",
        **(_INCEPTION | AT_224 | facts),
    )


def _mobilenet_v2(alpha: float, **facts: Any) -> BackboneSpec:
    name = f"mobilenet_v2_{alpha}"
    return BackboneSpec(
        name=name,
        family="mobilenet_v2",
        arguments={"depth_multiplier": alpha, "scope": "MobilenetV2"},
        url=f"https://storage.googleapis.com/mobilenet_v2/checkpoints/{name}_224.tgz",
        head=("MobilenetV2/Logits/*",),
        reference=f"Sandler et al. 2018, arXiv 1801.04381; {_MODELS_SOURCE}/mobilenet/mobilenet_v2.py",
        **(_INCEPTION | AT_224 | {"bn_decay": 0.997} | facts),
    )


_VGG_LAYERS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each stack, by depth."""


def _vgg(depth: int, **facts: Any) -> BackboneSpec:
    """The weights of its authors, converted. `fc6` covers 7x7 places of a map that is a 32nd of the image."""
    scope = f"vgg_{depth}"
    return BackboneSpec(
        name=scope,
        source="slim",
        family="vgg",
        arguments={"layers": _VGG_LAYERS[depth], "scope": scope},
        url=f"{_MODELS}/{scope}_2016_08_28.tar.gz",
        preprocessing="vgg",
        image_size=224,
        least_size=224,
        head=(f"{scope}/fc8/*",),
        reference="Simonyan & Zisserman 2014, arXiv 1409.1556; tf_slim/nets/vgg.py",
        **(_EVALUATED_AS_VGG | CLASSES | NO_BATCHNORM | facts),
    )


def _densenet(depth: int, widths: dict[str, Any], **facts: Any) -> BackboneSpec:
    """`widths` are the arguments of `networks.densenet` that are not its defaults.

    The files are on Google Drive only, behind a page that asks before it gives a large file. So no row has an address.
    """
    scope = f"densenet{depth}"
    return BackboneSpec(
        name=scope,
        source="slim",
        family="densenet",
        arguments={**widths, "scope": scope},
        preprocessing="densenet",
        image_size=224,
        least_size=29,
        head=(f"{scope}/logits/*",),
        bn_decay=0.99,
        bn_epsilon=1.1e-5,
        reference="Huang et al. 2016, arXiv 1608.06993; github.com/pudae/tensorflow-densenet nets/densenet.py",
        **(_EVALUATED_AS_VGG | CLASSES | facts),
    )


SLIM: tuple[BackboneSpec, ...] = (
    _resnet(50, _RESNET_V1, date="2016_08_28", top1=75.2, top5=92.2, parameters=23_561_152),
    _resnet(101, _RESNET_V1, date="2016_08_28", top1=76.4, top5=92.9, parameters=42_605_504),
    _resnet(152, _RESNET_V1, date="2016_08_28", top1=76.8, top5=93.2, parameters=58_295_232),
    _resnet(200, _RESNET_V1, date=None, parameters=62_800_832),
    _resnet(50, _RESNET_V2, date="2017_04_14", top1=75.6, top5=92.8, parameters=23_564_800),
    _resnet(101, _RESNET_V2, date="2017_04_14", top1=77.0, top5=93.7, parameters=42_626_560),
    _resnet(152, _RESNET_V2, date="2017_04_14", top1=77.8, top5=94.1, parameters=58_331_648),
    _resnet(200, _RESNET_V2, date=None, parameters=62_845_440),
    _inception("v1", "InceptionV1", "2016_08_28", AT_224, "1409.4842", top1=69.8, top5=89.6, parameters=5_607_184),
    _inception("v2", "InceptionV2", "2016_08_28", AT_224, "1502.03167", top1=73.9, top5=91.8, parameters=10_173_112),
    _inception("v3", "InceptionV3", "2016_08_28", AT_299, "1512.00567", top1=78.0, top5=93.9, parameters=21_802_784),
    _inception("v4", "InceptionV4", "2016_09_09", AT_299, "1602.07261", top1=80.2, top5=95.2, parameters=41_174_400),
    _inception(
        "resnet_v2",
        "InceptionResnetV2",
        "2016_08_30",
        AT_299,
        "1602.07261",
        top1=80.4,
        top5=95.3,
        parameters=54_336_736,
    ),
    _densenet(121, {"layers": (6, 12, 24, 16)}, top1=74.91, top5=92.19, parameters=7_037_504),
    _densenet(
        161, {"layers": (6, 12, 36, 24), "growth": 48, "width": 96}, top1=77.64, top5=93.79, parameters=26_691_936
    ),
    _densenet(169, {"layers": (6, 12, 32, 32)}, top1=76.09, top5=93.14, parameters=12_642_880),
    _vgg(16, top1=71.5, top5=89.8, parameters=134_260_544),
    _vgg(19, top1=71.1, top5=89.8, parameters=139_570_240),
    _mobilenet_v1(1.0, top1=70.9, top5=89.9, parameters=3_228_864),
    _mobilenet_v1(0.75, top1=68.4, top5=88.2, parameters=1_832_976),
    _mobilenet_v1(0.5, top1=63.3, top5=84.9, parameters=829_536),
    _mobilenet_v1(0.25, top1=49.8, top5=74.2, parameters=218_544),
    _mobilenet_v2(1.4, top1=75.0, top5=92.5, parameters=4_363_712),
    _mobilenet_v2(1.3, top1=74.4, top5=92.1, parameters=3_766_048),
    _mobilenet_v2(1.0, top1=71.8, top5=91.0, parameters=2_257_984),
    _mobilenet_v2(0.75, top1=69.8, top5=89.6, parameters=1_382_064),
    _mobilenet_v2(0.5, top1=65.4, top5=86.4, parameters=706_224),
    _mobilenet_v2(0.35, top1=60.3, top5=82.9, parameters=410_208),
)

# Networks to train from random weights: the baseline that a pretrained one has to beat. None has published weights.

_CIFAR_RESNET: Family = {
    "family": "cifar_resnet",
    "least_size": 8,
    "reference": "He et al. 2015, arXiv 1512.03385; kuangliu/pytorch-cifar models/resnet.py",
}


def _scratch(name: str, arguments: dict[str, Any], **facts: Any) -> BackboneSpec:
    """Pixels are scaled to [-1, 1] (`inception`), as the source of `cifar_resnet` does.

    That needs no statistics of a data set that may not be the user's, and BatchNorm behind the first convolution takes
    any other affine scaling back out.
    """
    return BackboneSpec(
        name=name,
        source="scratch",
        arguments={**arguments, "scope": name},
        preprocessing="inception",
        image_size=32,
        head=(f"{name}/logits/*",),
        bn_decay=0.9,
        bn_epsilon=1e-5,
        **facts,
    )


SCRATCH: tuple[BackboneSpec, ...] = (
    _scratch(
        "cifar_resnet",
        {"units": (2, 3, 2), "width": 32, "shortcut": "pad"},
        family="cifar_resnet",
        least_size=4,
        parameters=760_800,
        reference="He et al. 2015, arXiv 1512.03385, section 4.2; tensorflow/models tutorials/image/cifar10_estimator/"
        "model_base.py, of [n, n, n] units and 16 filters",
    ),
    *(
        _scratch(name, {"units": units, "width": 64, "shortcut": "project"}, parameters=parameters, **_CIFAR_RESNET)
        for name, units, parameters in (
            ("cifar_resnet18", (2, 2, 2, 2), 11_178_432),
            ("cifar_resnet34", (3, 4, 6, 3), 21_294_016),
        )
    ),
    _scratch(
        "cifar_vgg",
        {},
        family="cifar_vgg",
        least_size=16,
        parameters=14_727_360,
        reference="Simonyan & Zisserman 2014, arXiv 1409.1556, configuration D; kuangliu/pytorch-cifar models/vgg.py",
    ),
)

BUNDLED: tuple[BackboneSpec, ...] = (
    BackboneSpec(
        name="resnet_v1_demo",
        family="resnet_v1",
        arguments={"units": (2, 2, 2), "width": 16, "stem": "small", "scope": "resnet_v1_demo"},
        bundled="resnet_v1_demo.ckpt",
        preprocessing="inception",
        image_size=32,
        outputs=20,
        head=("resnet_v1_demo/logits/*",),
        parameters=221_424,
        reference="made by tools/demo_checkpoint.py on generated images",
        **(_RESNET | {"source": "bundled", "least_size": 8}),
    ),
)
