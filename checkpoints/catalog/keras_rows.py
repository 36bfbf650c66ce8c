"""The rows of the catalogue of the weights published with `keras.applications`."""

from typing import Any

from checkpoints.catalog.rows import AT_224, AT_299, CLASSES, NO_BATCHNORM, Family
from checkpoints.catalog.spec import BackboneSpec

_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"

_KERAS: Family = {"source": "keras", "family": "keras_applications", "bn_decay": 0.99, **CLASSES}
_KERAS_RESNET: Family = {
    **AT_224,
    "preprocessing": "caffe",
    "bn_epsilon": 1.001e-5,
    "reference": "He et al. 2015, arXiv 1512.03385; keras/src/applications/resnet.py",
}
_KERAS_RESNET_V2: Family = {
    **_KERAS_RESNET,
    "preprocessing": "inception",
    "reference": "He et al. 2016, arXiv 1603.05027; keras/src/applications/resnet_v2.py (top-1 measured at 299 px)",
}
_KERAS_DENSENET: Family = {
    **_KERAS_RESNET,
    "preprocessing": "torch",
    "reference": "Huang et al. 2016, arXiv 1608.06993; keras/src/applications/densenet.py",
}
_KERAS_INCEPTION_V3: Family = {
    **AT_299,
    "preprocessing": "inception",
    "bn_epsilon": 1e-3,
    "reference": "Szegedy et al. 2015, arXiv 1512.00567; keras/src/applications/inception_v3.py",
}
_KERAS_INCEPTION_RESNET: Family = {
    **_KERAS_INCEPTION_V3,
    "reference": "Szegedy et al. 2016, arXiv 1602.07261; keras/src/applications/inception_resnet_v2.py",
}

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
    "efficientnet_b0": ("902e53a9f72be733fc0bcb005b3ebbac", "50bc09e76180e00e4465e1a485ddc09d"),
    "efficientnet_b1": ("1d254153d4ab51201f1646940f018540", "74c4e6b3e1f6a1eea24c589628592432"),
    "efficientnet_b2": ("b15cce36ff4dcbd00b6dd88e7857a6ad", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "efficientnet_b3": ("ffd1fdc53d0ce67064dc6a9c7960ede0", "af6d107764bb5b1abb91932881670226"),
    "efficientnet_b4": ("18c95ad55216b8f92d7e70b3a046e2fc", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "efficientnet_b5": ("ace28f2a6363774853a83a0b21b9421a", "38879255a25d3c92d5e44e04ae6cec6f"),
    "efficientnet_b6": ("165f6e37dce68623721b423839de8be5", "9ecce42647a20130c1f39a5d4cb75743"),
    "efficientnet_b7": ("8c03f828fec3ef71311cd463b6759d99", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    "efficientnet_v2_b0": ("21ecbf6da12460d5c40bb2f29ceb2188", "893217f2bb855e2983157299931e43ff"),
    "efficientnet_v2_b1": ("069f0534ff22adf035c89e2d9547a9dc", "0e80663031ca32d657f9caa404b6ec37"),
    "efficientnet_v2_b2": ("424e49f28180edbde1e94797771950a7", "1dfe2e7a5d45b6632553a8961ea609eb"),
    "efficientnet_v2_b3": ("1f1fc43bd98a6e4fd8fdfd551e02c7a0", "f6abf7b5849ac99a89b50dd3fd532856"),
    "efficientnet_v2_s": ("e1d88a8495beba45748fedd0cecbe016", "af0682fb74e8c54910f2d4393339c070"),
    "efficientnet_v2_m": ("a3bf6aa3276309f4fc6a34aa114c95cd", "1b8dc055df72dde80d614482840fe342"),
    "efficientnet_v2_l": ("27e6d408b53c7ebc868fefa357689935", "b0b66b5c863aef5b46e8608fe1711615"),
    "mobilenet_v3_large_0.75": ("765b44a33ad4005b3ac83185abf1d0eb", "40af19a13ebea4e2ee0c676887f69a2e"),
    "mobilenet_v3_large_1.0": ("59e551e166be033d707958cf9e29a6a7", "07fb09a5933dd0c8eaafa16978110389"),
    "mobilenet_v3_large_minimalistic_1.0": ("675e7b876c45c57e9e63e6d90a36599c", "ec5221f64a2f6d1ef965a614bdae7973"),
    "mobilenet_v3_small_0.75": ("cb65d4e5be93758266aa0a7f2c6708b7", "ebdb5cc8e0b497cd13a7c275d475c819"),
    "mobilenet_v3_small_1.0": ("8768d4c2e7dee89b9d02b2d03d65d862", "d3e8ec802a04aa4fc771ee12a9a9b836"),
    "mobilenet_v3_small_minimalistic_1.0": ("99cd97fb2fcdad2bf028eb838de69e37", "cde8136e733e811080d9fcd8a252f7e4"),
    "vgg16": ("64373286793e3c8b2b4e3219cbf3544b", "6d6bbae143d832006294945121d1f1fc"),
    "vgg19": ("cbe5617147190e668d6c5d5026f83318", "253f8cb515780f3b799900260a226db6"),
    "xception": ("0a58e3b7378bc2990ea3b43d5981f1f6", "b0042744bf5b25fce3cb969f33bebb97"),
    "nasnet_mobile": ("020fb642bf7360b370c678b08e0adf61", "1ed92395b5b598bdda52abe5c0dbfd63"),
    "nasnet_large": ("11577c9a518f0070763c2b964a382f17", "d81d89dc07e6e56530c4e77faddd61b5"),
}
"""Published hashes: of the file with the head, and of the one without."""

_SHA256S = {
    "tiny": (
        "8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
    "small": (
        "ce1277d8f1ee5a0ef0e171469089c18f5233860ceaf9b168049cb9263fd7483c",
        "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
    ),
    "base": (
        "52cbb006d3dadd03f6e095a8ca1aca47aecdd75acb4bc74bce1f5c695d0086e6",
        "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
    ),
    "large": (
        "070c5ed9ed289581e477741d3b34beffa920db8cf590899d6d2c67fba2a198a6",
        "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd",
    ),
    "xlarge": (
        "c1f5ccab661354fc3a79a10fa99af82f0fbf10ec65cb894a3ae0815f17a889ee",
        "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05",
    ),
}
"""The same for ConvNeXt, by size."""


# The layer of the logits. Most files were saved before the layer got its present name, `predictions`:
# keras_applications 1.0.8 called it `probs` in resnet_common.py and `fc1000` in densenet.py.
_LOGITS: Family = {"head": ("predictions/*", "probs/*", "fc1000/*")}


def _application(name: str, application: str, family: Family, *, folder: str = "", **facts: Any) -> BackboneSpec:
    """`folder` is where the file is published, unless the folder has the name of the row."""
    stem = f"{_APPLICATIONS}/{folder or name}/{name}_weights_tf_dim_ordering_tf_kernels"
    return BackboneSpec(
        name=name,
        arguments={"application": application},
        url=f"{stem}.h5",
        md5=_MD5S[name][0],
        url_no_head=f"{stem}_notop.h5",
        md5_no_head=_MD5S[name][1],
        **(_KERAS | _LOGITS | family | facts),
    )


def _published(name: str, application: str, stem: str, no_head: str, family: Family, **facts: Any) -> BackboneSpec:
    """An application whose file is `stem`.h5 below the folder of all, and without the head `stem``no_head`.h5."""
    hashes = _MD5S.get(name, (None, None))
    return BackboneSpec(
        name=name,
        url=f"{stem}.h5",
        md5=hashes[0],
        url_no_head=f"{stem}{no_head}.h5",
        md5_no_head=hashes[1],
        **(
            _KERAS
            | {
                "head": ("predictions/*",),
                "arguments": {"application": application},
                "bn_epsilon": 1e-3,
                "least_size": 32,
            }
            | family
            | facts
        ),
    )


def _mobilenet_v2(alpha: float, **facts: Any) -> BackboneSpec:
    """No hash is published for these files."""
    family = {
        **AT_224,
        "arguments": {"application": "MobileNetV2", "alpha": alpha},
        "preprocessing": "inception",
        "bn_decay": 0.999,
        "reference": "Sandler et al. 2018, arXiv 1801.04381; keras/src/applications/mobilenet_v2.py",
    }
    stem = f"{_APPLICATIONS}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224"
    return _published(f"mobilenet_v2_{alpha}", "MobileNetV2", stem, "_no_top", family, **facts)


def _mobilenet_v3(kind: str, alpha: float, **facts: Any) -> BackboneSpec:
    """`kind` is as in the file's name. Pixels are prepared inside. A convolution behind the pooling is of the head."""
    size, _, minimalistic = kind.partition("_")
    family = {
        **AT_224,
        "arguments": {
            "application": f"MobileNetV3{size.title()}",
            "alpha": alpha,
            **({"minimalistic": True} if minimalistic else {}),
        },
        "head": ("conv_2/*", "logits/*"),
        "preprocessing": "raw",
        "bn_decay": 0.999,
        "reference": "Howard et al. 2019, arXiv 1905.02244; keras/src/applications/mobilenet_v3.py",
    }
    stem = f"{_APPLICATIONS}/mobilenet_v3/weights_mobilenet_v3_{kind}_224_{alpha}_float"
    return _published(f"mobilenet_v3_{kind}_{alpha}", "", stem, "_no_top_v2", family, **facts)


def _efficientnet(size: str, image_size: int, **facts: Any) -> BackboneSpec:
    """Its pixels are prepared inside."""
    family = {
        "image_size": image_size,
        "preprocessing": "raw",
        "reference": "Tan & Le 2019, arXiv 1905.11946; keras/src/applications/efficientnet.py",
    }
    stem = f"https://storage.googleapis.com/keras-applications/efficientnet{size}"
    return _published(f"efficientnet_{size}", f"EfficientNet{size.upper()}", stem, "_notop", family, **facts)


def _efficientnet_v2(size: str, image_size: int, **facts: Any) -> BackboneSpec:
    """Its pixels are prepared inside."""
    family = {
        "image_size": image_size,
        "preprocessing": "raw",
        "bn_decay": 0.9,
        "reference": "Tan & Le 2021, arXiv 2104.00298; keras/src/applications/efficientnet_v2.py",
    }
    stem = f"{_APPLICATIONS}/efficientnet_v2/efficientnetv2-{size}"
    return _published(f"efficientnet_v2_{size}", f"EfficientNetV2{size.upper()}", stem, "_notop", family, **facts)


def _convnext(size: str, **facts: Any) -> BackboneSpec:
    """Its pixels are prepared inside. `top1` is of training on ImageNet alone (tiny, small) or after ImageNet-21k."""
    name = f"convnext_{size}"
    sha256, sha256_no_head = _SHA256S[size]
    family = {
        **AT_224,
        **NO_BATCHNORM,
        "preprocessing": "raw",
        "head": (f"{name}_head_dense/*",),
        "sha256": sha256,
        "sha256_no_head": sha256_no_head,
        "reference": "Liu et al. 2022, arXiv 2201.03545; keras/src/applications/convnext.py",
    }
    application = "ConvNeXtXLarge" if size == "xlarge" else f"ConvNeXt{size.title()}"
    return _published(name, application, f"{_APPLICATIONS}/convnext/{name}", "_notop", family, **facts)


_KERAS_VGG: Family = {
    **AT_224,
    **NO_BATCHNORM,
    "preprocessing": "caffe",
    # Its fully connected layers take the flattened map: they are of the head, and fit images of 224 px only.
    "head": ("fc1/*", "fc2/*", "predictions/*"),
}
_XCEPTION: Family = {
    "image_size": 299,
    "least_size": 71,
    "preprocessing": "inception",
    "reference": "Chollet 2016, arXiv 1610.02357; keras/src/applications/xception.py",
}
_NASNET: Family = {
    "preprocessing": "inception",
    "bn_decay": 0.9997,
    "reference": "Zoph et al. 2017, arXiv 1707.07012; keras/src/applications/nasnet.py",
}


def _keras_mobilenet(alpha: float, *, width: str, parameters: int) -> BackboneSpec:
    """`width` is alpha as the published file spells it. No hash and no accuracy are published for these files."""
    stem = f"{_APPLICATIONS}/mobilenet/mobilenet_{width}_224_tf"
    return BackboneSpec(
        name=f"mobilenet_{alpha}",
        arguments={"application": "MobileNet", "alpha": alpha},
        url=f"{stem}.h5",
        url_no_head=f"{stem}_no_top.h5",
        preprocessing="inception",
        head=("conv_preds/*",),
        bn_epsilon=1e-3,
        parameters=parameters,
        reference="Howard et al. 2017, arXiv 1704.04861; keras/src/applications/mobilenet.py",
        **(_KERAS | AT_224),
    )


KERAS: tuple[BackboneSpec, ...] = (
    _application("resnet50", "ResNet50", _KERAS_RESNET, folder="resnet", top1=74.93, parameters=23_587_712),
    _application("resnet101", "ResNet101", _KERAS_RESNET, folder="resnet", top1=76.42, parameters=42_658_176),
    _application("resnet152", "ResNet152", _KERAS_RESNET, folder="resnet", top1=76.60, parameters=58_370_944),
    _application("resnet50v2", "ResNet50V2", _KERAS_RESNET_V2, folder="resnet", top1=75.96, parameters=23_564_800),
    _application("resnet101v2", "ResNet101V2", _KERAS_RESNET_V2, folder="resnet", top1=77.23, parameters=42_626_560),
    _application("resnet152v2", "ResNet152V2", _KERAS_RESNET_V2, folder="resnet", top1=78.03, parameters=58_331_648),
    _application("inception_v3", "InceptionV3", _KERAS_INCEPTION_V3, top1=77.90, parameters=21_802_784),
    _application(
        "inception_resnet_v2", "InceptionResNetV2", _KERAS_INCEPTION_RESNET, top1=80.26, parameters=54_336_736
    ),
    _application("densenet121", "DenseNet121", _KERAS_DENSENET, folder="densenet", top1=74.97, parameters=7_037_504),
    _application("densenet169", "DenseNet169", _KERAS_DENSENET, folder="densenet", top1=76.18, parameters=12_642_880),
    _application("densenet201", "DenseNet201", _KERAS_DENSENET, folder="densenet", top1=77.32, parameters=18_321_984),
    _keras_mobilenet(1.0, width="1_0", parameters=3_228_864),
    _keras_mobilenet(0.75, width="7_5", parameters=1_832_976),
    _keras_mobilenet(0.5, width="5_0", parameters=829_536),
    _keras_mobilenet(0.25, width="2_5", parameters=218_544),
    _mobilenet_v2(1.4, parameters=4_363_712),
    _mobilenet_v2(1.3, parameters=3_766_048),
    _mobilenet_v2(1.0, parameters=2_257_984, top1=71.3),
    _mobilenet_v2(0.75, parameters=1_382_064),
    _mobilenet_v2(0.5, parameters=706_224),
    _mobilenet_v2(0.35, parameters=410_208),
    _mobilenet_v3("large", 1.0, top1=75.6, parameters=2_996_352),
    _mobilenet_v3("large", 0.75, top1=73.3, parameters=1_808_736),
    _mobilenet_v3("large_minimalistic", 1.0, top1=72.3, parameters=1_437_608),
    _mobilenet_v3("small", 1.0, top1=68.1, parameters=939_120),
    _mobilenet_v3("small", 0.75, top1=65.4, parameters=583_160),
    _mobilenet_v3("small_minimalistic", 1.0, top1=61.9, parameters=441_000),
    *(
        _efficientnet(size, side, parameters=parameters, top1=top1)
        for size, side, parameters, top1 in (
            ("b0", 224, 4_049_571, 77.1),
            ("b1", 240, 6_575_239, 79.1),
            ("b2", 260, 7_768_569, 80.1),
            ("b3", 300, 10_783_535, 81.6),
            ("b4", 380, 17_673_823, 82.9),
            ("b5", 456, 28_513_527, 83.6),
            ("b6", 528, 40_960_143, 84.0),
            ("b7", 600, 64_097_687, 84.3),
        )
    ),
    *(
        _efficientnet_v2(size, side, parameters=parameters, top1=top1)
        for size, side, parameters, top1 in (
            ("b0", 224, 5_919_312, 78.7),
            ("b1", 240, 6_931_124, 79.8),
            ("b2", 260, 8_769_374, 80.5),
            ("b3", 300, 12_930_622, 82.0),
            ("s", 384, 20_331_360, 83.9),
            ("m", 480, 53_150_388, 85.3),
            ("l", 480, 117_746_848, 85.7),
        )
    ),
    _published(
        "xception",
        "Xception",
        f"{_APPLICATIONS}/xception/xception_weights_tf_dim_ordering_tf_kernels",
        "_notop",
        _XCEPTION,
        top1=79.0,
        parameters=20_861_480,
    ),
    *(
        _published(
            f"nasnet_{size.lower()}",
            f"NASNet{size}",
            f"{_APPLICATIONS}/nasnet/NASNet-{size.lower()}",
            "-no-top",
            {**_NASNET, "image_size": side},
            top1=top1,
            parameters=parameters,
        )
        for size, side, top1, parameters in (("Mobile", 224, 74.4, 4_269_716), ("Large", 331, 82.5, 84_916_818))
    ),
    *(
        _application(
            f"vgg{depth}",
            f"VGG{depth}",
            _KERAS_VGG,
            top1=top1,
            parameters=parameters,
            reference=f"Simonyan & Zisserman 2014, arXiv 1409.1556; keras/src/applications/vgg{depth}.py",
        )
        for depth, top1, parameters in ((16, 71.27, 14_714_688), (19, 71.26, 20_024_384))
    ),
    *(
        _convnext(size, top1=top1, parameters=parameters)
        for size, top1, parameters in (
            ("tiny", 81.3, 27_820_128),
            ("small", 82.3, 49_454_688),
            ("base", 85.3, 87_566_464),
            ("large", 86.3, 196_230_336),
            ("xlarge", 86.7, 348_147_968),
        )
    ),
)
