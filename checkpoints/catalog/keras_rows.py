"""The weights published with `keras.applications`."""

from typing import Any

from checkpoints.catalog.spec import BackboneSpec

_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"

# The layer of the logits. Most files were saved before the layer got its present name, `predictions`:
# keras_applications 1.0.8 called it `probs` in resnet_common.py and `fc1000` in densenet.py.
_HEAD = ("predictions/*", "probs/*", "fc1000/*")

_RESNET = "He et al. 2015, arXiv 1512.03385; keras/src/applications/resnet.py"
_RESNET_V2 = "He et al. 2016, arXiv 1603.05027; keras/src/applications/resnet_v2.py (top-1 measured at 299 px)"
_INCEPTION_V3 = "Szegedy et al. 2015, arXiv 1512.00567; keras/src/applications/inception_v3.py"
_INCEPTION_RESNET = "Szegedy et al. 2016, arXiv 1602.07261; keras/src/applications/inception_resnet_v2.py"
_DENSENET = "Huang et al. 2016, arXiv 1608.06993; keras/src/applications/densenet.py"
_MOBILENET = "Howard et al. 2017, arXiv 1704.04861; keras/src/applications/mobilenet.py"


def _row(name: str, application: str, *, path: str, md5s: tuple[str, str], **fields: Any) -> BackboneSpec:
    """`md5s` are those of the file with the head and of the one without."""
    stem = f"{_APPLICATIONS}/{path}_weights_tf_dim_ordering_tf_kernels"
    return BackboneSpec(
        name=name,
        source="keras",
        family="keras_applications",
        arguments={"application": application},
        url=f"{stem}.h5",
        md5=md5s[0],
        url_no_head=f"{stem}_notop.h5",
        md5_no_head=md5s[1],
        outputs=1000,
        label_offset=0,
        head=_HEAD,
        bn_decay=0.99,
        **fields,
    )


def _resnet(depth: int, md5s: tuple[str, str], *, top1: float, parameters: int) -> BackboneSpec:
    return _row(
        f"resnet{depth}", f"ResNet{depth}", path=f"resnet/resnet{depth}", md5s=md5s,
        preprocessing="caffe", image_size=224, least_size=32, bn_epsilon=1.001e-5,
        top1=top1, parameters=parameters, reference=_RESNET,
    )  # fmt: skip


def _resnet_v2(depth: int, md5s: tuple[str, str], *, top1: float, parameters: int) -> BackboneSpec:
    return _row(
        f"resnet{depth}v2", f"ResNet{depth}V2", path=f"resnet/resnet{depth}v2", md5s=md5s,
        preprocessing="inception", image_size=224, least_size=32, bn_epsilon=1.001e-5,
        top1=top1, parameters=parameters, reference=_RESNET_V2,
    )  # fmt: skip


def _inception(
    name: str, application: str, md5s: tuple[str, str], *, top1: float, parameters: int, reference: str
) -> BackboneSpec:
    return _row(
        name, application, path=f"{name}/{name}", md5s=md5s,
        preprocessing="inception", image_size=299, least_size=75, bn_epsilon=1e-3,
        top1=top1, parameters=parameters, reference=reference,
    )  # fmt: skip


def _densenet(depth: int, md5s: tuple[str, str], *, top1: float, parameters: int) -> BackboneSpec:
    return _row(
        f"densenet{depth}", f"DenseNet{depth}", path=f"densenet/densenet{depth}", md5s=md5s,
        preprocessing="torch", image_size=224, least_size=32, bn_epsilon=1.001e-5,
        top1=top1, parameters=parameters, reference=_DENSENET,
    )  # fmt: skip


def _mobilenet(alpha: float, *, width: str, parameters: int) -> BackboneSpec:
    """`width` is alpha as the published file spells it. No hash and no accuracy are published for these files."""
    stem = f"{_APPLICATIONS}/mobilenet/mobilenet_{width}_224_tf"
    return BackboneSpec(
        name=f"mobilenet_{alpha}",
        source="keras",
        family="keras_applications",
        arguments={"application": "MobileNet", "alpha": alpha},
        url=f"{stem}.h5",
        url_no_head=f"{stem}_no_top.h5",
        preprocessing="inception",
        image_size=224,
        least_size=32,
        outputs=1000,
        label_offset=0,
        head=("conv_preds/*",),
        bn_decay=0.99,
        bn_epsilon=1e-3,
        parameters=parameters,
        reference=_MOBILENET,
    )


KERAS: tuple[BackboneSpec, ...] = (
    _resnet(
        50,
        ("2cb95161c43110f7111970584f804107", "4d473c1dd8becc155b73f8504c6f6626"),
        top1=74.93,
        parameters=23_587_712,
    ),
    _resnet(
        101,
        ("f1aeb4b969a6efcfb50fad2f0c20cfc5", "88cf7a10940856eca736dc7b7e228a21"),
        top1=76.42,
        parameters=42_658_176,
    ),
    _resnet(
        152,
        ("100835be76be38e30d865e96f2aaae62", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
        top1=76.60,
        parameters=58_370_944,
    ),
    _resnet_v2(
        50,
        ("3ef43a0b657b3be2300d5770ece849e0", "fac2f116257151a9d068a22e544a4917"),
        top1=75.96,
        parameters=23_564_800,
    ),
    _resnet_v2(
        101,
        ("6343647c601c52e1368623803854d971", "c0ed64b8031c3730f411d2eb4eea35b5"),
        top1=77.23,
        parameters=42_626_560,
    ),
    _resnet_v2(
        152,
        ("a49b44d1979771252814e80f8ec446f9", "ed17cf2e0169df9d443503ef94b23b33"),
        top1=78.03,
        parameters=58_331_648,
    ),
    _inception(
        "inception_v3",
        "InceptionV3",
        ("9a0d58056eeedaa3f26cb7ebd46da564", "bcbd6486424b2319ff4ef7d526e38f63"),
        top1=77.90,
        parameters=21_802_784,
        reference=_INCEPTION_V3,
    ),
    _inception(
        "inception_resnet_v2",
        "InceptionResNetV2",
        ("e693bd0210a403b3192acc6073ad2e96", "d19885ff4a710c122648d3b5c3b684e4"),
        top1=80.26,
        parameters=54_336_736,
        reference=_INCEPTION_RESNET,
    ),
    _densenet(
        121,
        ("9d60b8095a5708f2dcce2bca79d332c7", "30ee3e1110167f948a6b9946edeeb738"),
        top1=74.97,
        parameters=7_037_504,
    ),
    _densenet(
        169,
        ("d699b8f76981ab1b30698df4c175e90b", "b8c4d4c20dd625c148057b9ff1c1176b"),
        top1=76.18,
        parameters=12_642_880,
    ),
    _densenet(
        201,
        ("1ceb130c1ea1b78c3bf6114dbdfd8807", "c13680b51ded0fb44dff2d8f86ac8bb1"),
        top1=77.32,
        parameters=18_321_984,
    ),
    _mobilenet(1.0, width="1_0", parameters=3_228_864),
    _mobilenet(0.75, width="7_5", parameters=1_832_976),
    _mobilenet(0.5, width="5_0", parameters=829_536),
    _mobilenet(0.25, width="2_5", parameters=218_544),
)
