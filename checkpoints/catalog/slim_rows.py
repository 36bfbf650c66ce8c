"""TF-slim's published checkpoints. No hash is published for them: the first fetch is recorded (`store.fetch`).

In every function below, `facts` are the fields of a row that its family does not decide.
"""

from typing import Any

from checkpoints.catalog.spec import BackboneSpec

_MODELS = "http://download.tensorflow.org/models"
_MODELS_SOURCE = "tensorflow/models research/slim/nets"


_RESNET_UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
"""Residual units in each block, by depth."""
_RESNET_V1: dict[str, Any] = {
    "family": "resnet_v1",
    "preprocessing": "vgg",
    "image_size": 224,
    # Trained without a background class, unlike slim's other networks: logit 0 is ImageNet class 0.
    "outputs": 1000,
    "label_offset": 0,
    "reference": "He et al. 2015, arXiv 1512.03385; tf_slim/nets/resnet_v1.py",
}
_RESNET_V2: dict[str, Any] = {
    "family": "resnet_v2",
    "preprocessing": "inception",
    "image_size": 299,  # of the published accuracy; the code's default is 224
    "outputs": 1001,
    "label_offset": 1,
    "reference": "He et al. 2016, arXiv 1603.05027; tf_slim/nets/resnet_v2.py",
}


def _resnet(depth: int, family: dict[str, Any], *, date: str | None, **facts: Any) -> BackboneSpec:
    """`date` is part of the published file's name; None where nothing is published."""
    scope = f"{family['family']}_{depth}"
    return BackboneSpec(
        name=scope,
        source="slim",
        arguments={"units": _RESNET_UNITS[depth], "scope": scope},
        url=f"{_MODELS}/{scope}_{date}.tar.gz" if date else None,
        least_size=32,
        head=(f"{scope}/logits/*",),
        bn_decay=0.997,
        bn_epsilon=1e-5,
        **family,
        **facts,
    )


def _inception(
    version: str, scope: str, *, file: str, arxiv: str, source: str = "tf_slim/nets", **facts: Any
) -> BackboneSpec:
    """`source` is the folder of the reference code, `file` the published one's name without its ending."""
    name = f"inception_{version}"
    return BackboneSpec(
        name=name,
        source="slim",
        family=name,
        arguments={"scope": scope},
        url=f"{_MODELS}/{file}.tar.gz",
        preprocessing="inception",
        outputs=1001,
        label_offset=1,
        head=(f"{scope}/Logits/*",),
        bn_decay=0.9997,
        bn_epsilon=1e-3,
        reference=f"Szegedy, Ioffe et al., arXiv {arxiv}; {source}/{name}.py",
        **facts,
    )


def _mobilenet_v1(alpha: float, **facts: Any) -> BackboneSpec:
    name = f"mobilenet_v1_{alpha}"
    return BackboneSpec(
        name=name,
        source="slim",
        family="mobilenet_v1",
        arguments={"depth_multiplier": alpha, "scope": "MobilenetV1"},
        url=f"{_MODELS}/mobilenet_v1_2018_08_02/{name}_224.tgz",
        preprocessing="inception",
        image_size=224,
        least_size=32,
        outputs=1001,
        label_offset=1,
        head=("MobilenetV1/Logits/*",),
        bn_decay=0.9997,
        bn_epsilon=1e-3,
        reference=f"Howard et al. 2017, arXiv 1704.04861; {_MODELS_SOURCE}/mobilenet_v1.py",
        **facts,
    )


def _densenet(depth: int, widths: dict[str, Any], **facts: Any) -> BackboneSpec:
    """`widths` are the arguments of `networks.densenet` that are not its defaults."""
    scope = f"densenet{depth}"
    return BackboneSpec(
        name=scope,
        source="slim",
        family="densenet",
        arguments={**widths, "scope": scope},
        url=None,  # on Google Drive only, behind a page that asks before it gives a large file
        preprocessing="densenet",
        image_size=224,
        least_size=29,
        outputs=1000,
        label_offset=0,
        head=(f"{scope}/logits/*",),
        bn_decay=0.99,
        bn_epsilon=1.1e-5,
        reference="Huang et al. 2016, arXiv 1608.06993; github.com/pudae/tensorflow-densenet nets/densenet.py",
        **facts,
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
    _inception(
        "v1",
        "InceptionV1",
        file="inception_v1_2016_08_28",
        arxiv="1409.4842",
        image_size=224,
        least_size=32,
        top1=69.8,
        top5=89.6,
        parameters=5_607_184,
    ),
    _inception(
        "v2",
        "InceptionV2",
        file="inception_v2_2016_08_28",
        arxiv="1502.03167",
        image_size=224,
        least_size=32,
        top1=73.9,
        top5=91.8,
        parameters=10_173_112,
    ),
    _inception(
        "v3",
        "InceptionV3",
        file="inception_v3_2016_08_28",
        auxiliary=("InceptionV3/AuxLogits/*",),
        arxiv="1512.00567",
        image_size=299,
        least_size=75,
        top1=78.0,
        top5=93.9,
        parameters=21_802_784,
    ),
    _inception(
        "v4",
        "InceptionV4",
        file="inception_v4_2016_09_09",
        auxiliary=("InceptionV4/AuxLogits/*",),
        arxiv="1602.07261",
        source=_MODELS_SOURCE,
        image_size=299,
        least_size=75,
        top1=80.2,
        top5=95.2,
        parameters=41_174_400,
    ),
    _inception(
        "resnet_v2",
        "InceptionResnetV2",
        file="inception_resnet_v2_2016_08_30",
        auxiliary=("InceptionResnetV2/AuxLogits/*",),
        arxiv="1602.07261",
        source=_MODELS_SOURCE,
        image_size=299,
        least_size=75,
        top1=80.4,
        top5=95.3,
        parameters=54_336_736,
    ),
    _densenet(121, {"layers": (6, 12, 24, 16)}, top1=74.91, top5=92.19, parameters=7_037_504),
    _densenet(
        161,
        {"layers": (6, 12, 36, 24), "growth": 48, "width": 96},
        top1=77.64,
        top5=93.79,
        parameters=26_691_936,
    ),
    _densenet(169, {"layers": (6, 12, 32, 32)}, top1=76.09, top5=93.14, parameters=12_642_880),
    _mobilenet_v1(1.0, top1=70.9, top5=89.9, parameters=3_228_864),
    _mobilenet_v1(0.75, top1=68.4, top5=88.2, parameters=1_832_976),
    _mobilenet_v1(0.5, top1=63.3, top5=84.9, parameters=829_536),
    _mobilenet_v1(0.25, top1=49.8, top5=74.2, parameters=218_544),
)

BUNDLED: tuple[BackboneSpec, ...] = (
    BackboneSpec(
        name="resnet_v1_demo",
        source="bundled",
        family="resnet_v1",
        arguments={"units": (2, 2, 2), "width": 16, "stem": "small", "scope": "resnet_v1_demo"},
        bundled="resnet_v1_demo.ckpt",
        preprocessing="inception",
        image_size=32,
        least_size=8,
        outputs=20,
        label_offset=0,
        head=("resnet_v1_demo/logits/*",),
        bn_decay=0.997,
        bn_epsilon=1e-5,
        parameters=221_424,
        reference="made by tools/demo_checkpoint.py on generated images",
    ),
)
