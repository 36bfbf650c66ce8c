"""The weights published with `keras.applications`."""

from typing import Any

from checkpoints.catalog.spec import BackboneSpec

_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"

# The layer of the logits. Most files were saved before the layer got its present name, `predictions`:
# keras_applications 1.0.8 called it `probs` in resnet_common.py and `fc1000` in densenet.py.
_HEAD = ("predictions/*", "probs/*", "fc1000/*")

_RESNET: dict[str, Any] = {
    "preprocessing": "caffe",
    "image_size": 224,
    "least_size": 32,
    "bn_epsilon": 1.001e-5,
    "reference": "He et al. 2015, arXiv 1512.03385; keras/src/applications/resnet.py",
}
_RESNET_V2: dict[str, Any] = {
    **_RESNET,
    "preprocessing": "inception",
    "reference": "He et al. 2016, arXiv 1603.05027; keras/src/applications/resnet_v2.py (top-1 measured at 299 px)",
}
_DENSENET: dict[str, Any] = {
    **_RESNET,
    "preprocessing": "torch",
    "reference": "Huang et al. 2016, arXiv 1608.06993; keras/src/applications/densenet.py",
}
_INCEPTION_V3: dict[str, Any] = {
    "preprocessing": "inception",
    "image_size": 299,
    "least_size": 75,
    "bn_epsilon": 1e-3,
    "reference": "Szegedy et al. 2015, arXiv 1512.00567; keras/src/applications/inception_v3.py",
}
_INCEPTION_RESNET: dict[str, Any] = {
    **_INCEPTION_V3,
    "reference": "Szegedy et al. 2016, arXiv 1602.07261; keras/src/applications/inception_resnet_v2.py",
}
_MOBILENET = "Howard et al. 2017, arXiv 1704.04861; keras/src/applications/mobilenet.py"

_MD5S = {
    "resnet50": ("2cb95161c43110f7111970584f804107", "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": ("f1aeb4b969a6efcfb50fad2f0c20cfc5", "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": ("100835be76be38e30d865e96f2aaae62", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    "resnet50v2": ("3ef43a0b657b3be2300d5770ece849e0", "fac2f116257151a9d068a22e544a4917"),
    "resnet101v2": ("6343647c601c52e1368623803854d971", "c0ed64b8031c3730f411d2eb4eea35b5"),
    "resnet152v2": ("a49b44d1979771252814e80f8ec446f9", "ed17cf2e0169df9d443503ef94b23b33"),
    "inception_v3": ("9a0d58056eeedaa3f26cb7ebd46da564", "bcbd6486424b2319ff4ef7d526e38f63"),
    "inception_resnet_v2": ("e693bd0210a403b3192acc6073ad2e96", "d19885ff4a710c122648d3b5c3b684e4"),
    "densenet121": ("9d60b8095a5708f2dcce2bca79d332c7", "30ee3e1110167f948a6b9946edeeb738"),
    "densenet169": ("d699b8f76981ab1b30698df4c175e90b", "b8c4d4c20dd625c148057b9ff1c1176b"),
    "densenet201": ("1ceb130c1ea1b78c3bf6114dbdfd8807", "c13680b51ded0fb44dff2d8f86ac8bb1"),
}
"""Published hashes: of the file with the head, and of the one without."""


def _row(folder: str, name: str, application: str, family: dict[str, Any], **facts: Any) -> BackboneSpec:
    """`folder` is where the files of the family are published, `facts` what is of this row alone."""
    stem = f"{_APPLICATIONS}/{folder}/{name}_weights_tf_dim_ordering_tf_kernels"
    return BackboneSpec(
        name=name,
        source="keras",
        family="keras_applications",
        arguments={"application": application},
        url=f"{stem}.h5",
        md5=_MD5S[name][0],
        url_no_head=f"{stem}_notop.h5",
        md5_no_head=_MD5S[name][1],
        outputs=1000,
        label_offset=0,
        head=_HEAD,
        bn_decay=0.99,
        **family,
        **facts,
    )


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
    _row("resnet", "resnet50", "ResNet50", _RESNET, top1=74.93, parameters=23_587_712),
    _row("resnet", "resnet101", "ResNet101", _RESNET, top1=76.42, parameters=42_658_176),
    _row("resnet", "resnet152", "ResNet152", _RESNET, top1=76.60, parameters=58_370_944),
    _row("resnet", "resnet50v2", "ResNet50V2", _RESNET_V2, top1=75.96, parameters=23_564_800),
    _row("resnet", "resnet101v2", "ResNet101V2", _RESNET_V2, top1=77.23, parameters=42_626_560),
    _row("resnet", "resnet152v2", "ResNet152V2", _RESNET_V2, top1=78.03, parameters=58_331_648),
    _row("inception_v3", "inception_v3", "InceptionV3", _INCEPTION_V3, top1=77.90, parameters=21_802_784),
    _row(
        "inception_resnet_v2",
        "inception_resnet_v2",
        "InceptionResNetV2",
        _INCEPTION_RESNET,
        top1=80.26,
        parameters=54_336_736,
    ),
    _row("densenet", "densenet121", "DenseNet121", _DENSENET, top1=74.97, parameters=7_037_504),
    _row("densenet", "densenet169", "DenseNet169", _DENSENET, top1=76.18, parameters=12_642_880),
    _row("densenet", "densenet201", "DenseNet201", _DENSENET, top1=77.32, parameters=18_321_984),
    _mobilenet(1.0, width="1_0", parameters=3_228_864),
    _mobilenet(0.75, width="7_5", parameters=1_832_976),
    _mobilenet(0.5, width="5_0", parameters=829_536),
    _mobilenet(0.25, width="2_5", parameters=218_544),
)
