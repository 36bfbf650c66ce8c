"""TF-slim's published checkpoints. No hash is published for them: the first fetch is recorded (`store.fetch`)."""

from checkpoints.spec import BackboneSpec

_MODELS = "http://download.tensorflow.org/models"


def _resnet_v1(
    depth: int, *, units: tuple[int, int, int, int], top1: float, top5: float, parameters: int
) -> BackboneSpec:
    scope = f"resnet_v1_{depth}"
    return BackboneSpec(
        name=scope,
        source="slim",
        family="resnet_v1",
        arguments={"units": units, "scope": scope},
        url=f"{_MODELS}/{scope}_2016_08_28.tar.gz",
        preprocessing="vgg",
        image_size=224,
        least_size=32,
        # Trained without a background class, unlike slim's other networks: logit 0 is ImageNet class 0.
        outputs=1000,
        label_offset=0,
        head=(f"{scope}/logits/*",),
        bn_decay=0.997,
        bn_epsilon=1e-5,
        top1=top1,
        top5=top5,
        parameters=parameters,
        reference="He et al. 2015, arXiv 1512.03385; tf_slim/nets/resnet_v1.py",
    )


def _mobilenet_v1(alpha: float, *, top1: float, top5: float, parameters: int) -> BackboneSpec:
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
        top1=top1,
        top5=top5,
        parameters=parameters,
        reference="Howard et al. 2017, arXiv 1704.04861; tensorflow/models research/slim/nets/mobilenet_v1.py",
    )


SLIM: tuple[BackboneSpec, ...] = (
    _resnet_v1(50, units=(3, 4, 6, 3), top1=75.2, top5=92.2, parameters=23_561_152),
    _resnet_v1(101, units=(3, 4, 23, 3), top1=76.4, top5=92.9, parameters=42_605_504),
    _resnet_v1(152, units=(3, 8, 36, 3), top1=76.8, top5=93.2, parameters=58_295_232),
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
        reference="made by finetune/demo/pretrain.py on generated images",
    ),
)
