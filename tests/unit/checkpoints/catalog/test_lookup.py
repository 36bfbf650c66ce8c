import dataclasses
from urllib.parse import urlsplit

import pytest

from checkpoints.catalog.lookup import CATALOG, BackboneSpec, find_row
from checkpoints.errors import CheckpointError, UnknownBackbone
from checkpoints.matching.pairing import of_head
from checkpoints.matching.structures import structures

OWN_WEIGHTS_ONLY = {
    *("slim/resnet_v1_200", "slim/resnet_v2_200"),
    *("slim/densenet121", "slim/densenet161", "slim/densenet169"),
}
PREPROCESSINGS = {"inception", "vgg", "caffe", "torch", "densenet", "unit", "raw"}


def _problems(spec: BackboneSpec) -> list[str]:
    checks = {
        "source/name is lower case": spec.id == spec.id.lower(),
        "preprocessing": spec.preprocessing in PREPROCESSINGS,
        "least_size <= image_size": 1 <= spec.least_size <= spec.image_size,
        "outputs and offset": (spec.outputs, spec.label_offset) in {(1000, 0), (1001, 1)}
        or bool(spec.bundled)
        or (spec.unpublished and (spec.outputs, spec.label_offset) == (0, 0)),
        "head patterns": bool(spec.head) and all("*" in pattern for pattern in spec.head),
        "0.9 <= bn_decay < 1": spec.bn_decay is None or 0.9 <= spec.bn_decay < 1,
        "bn_epsilon": spec.bn_epsilon in {1e-5, 1.001e-5, 1.1e-5, 1e-3, None},
        "decay and epsilon, or no BatchNorm": (spec.bn_decay is None) == (spec.bn_epsilon is None),
        "published or bundled": not (spec.url and spec.bundled),
        "weights to be had, or a row for the user's own": bool(spec.url or spec.bundled)
        or spec.id in OWN_WEIGHTS_ONLY
        or (spec.unpublished and spec.top1 is None),
        "url": spec.url is None or urlsplit(spec.url).scheme in {"http", "https"},
        "the file is what the source publishes": spec.url is None
        or spec.url.endswith(".h5" if spec.source == "keras" else (".tar.gz", ".tgz")),
        "md5": all(md5 is None or len(md5) == 32 for md5 in (spec.md5, spec.md5_no_head)),
        "sha256": all(hash_ is None or len(hash_) == 64 for hash_ in (spec.sha256, spec.sha256_no_head)),
        "md5 for both files or none": spec.url_no_head is None or bool(spec.md5) == bool(spec.md5_no_head),
        "accuracy": all(top is None or 40 < top < 100 for top in (spec.top1, spec.top5)),
        "parameters": spec.parameters is None or 1e5 < spec.parameters < 4e8,
        "reference": ("arXiv" in spec.reference and ".py" in spec.reference) or bool(spec.bundled),
        "scope in the head": "scope" not in spec.arguments or spec.head[0].startswith(spec.arguments["scope"]),
        "can be printed": dataclasses.asdict(spec)["name"] == spec.name,
    }
    return [f"{spec.id}: {what}" for what, holds in checks.items() if not holds]


def test_every_row_is_consistent() -> None:
    problems = [problem for spec in CATALOG for problem in _problems(spec)]
    for what in ("url", "url_no_head", "md5", "md5_no_head", "sha256", "sha256_no_head", "id"):
        values = [value for spec in CATALOG if (value := getattr(spec, what))]
        problems += [f"{what} {value} comes twice" for value in sorted({v for v in values if values.count(v) > 1})]
    problems += [f"find({spec.id!r}) is another row" for spec in CATALOG if find_row(spec.id) is not spec]
    assert not problems, "\n".join(problems)


def test_published_heads_have_the_outputs_of_their_row() -> None:
    """A thousand classes and, where label 0 is the background, one more: in every variable of the logits."""
    rows = [spec for spec in CATALOG if spec.outputs >= 1000]
    for spec in rows:
        logits = {variable.shape[-1] for variable in structures()[spec.id] if of_head(spec, variable.name)}
        assert spec.outputs in logits, spec.id
        assert not logits & {1000 + 1 - spec.label_offset}, spec.id
        assert spec.outputs - spec.label_offset == 1000, spec.id
    assert {spec.source for spec in rows} == {"slim", "keras"}


def test_published_facts_of_one_row_of_each_family() -> None:
    resnet, mobilenet, keras = (
        find_row("resnet_v1_101"),
        find_row("mobilenet_v1_0.25"),
        find_row("keras/mobilenet_0.25"),
    )
    assert resnet.url == "http://download.tensorflow.org/models/resnet_v1_101_2016_08_28.tar.gz"
    assert resnet.arguments == {"units": (3, 4, 23, 3), "scope": "resnet_v1_101"}
    assert (resnet.preprocessing, resnet.outputs, resnet.bn_decay) == ("vgg", 1000, 0.997)
    assert str(mobilenet.url).endswith("/mobilenet_v1_2018_08_02/mobilenet_v1_0.25_224.tgz")
    assert (mobilenet.preprocessing, mobilenet.label_offset, mobilenet.bn_decay) == ("inception", 1, 0.9997)
    assert str(keras.url).endswith("/mobilenet/mobilenet_2_5_224_tf.h5")
    assert str(keras.url_no_head).endswith("/mobilenet/mobilenet_2_5_224_tf_no_top.h5")


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("resnet_v1_50", "slim/resnet_v1_50"),
        ("slim/resnet_v1_50", "slim/resnet_v1_50"),
        ("resnet50", "keras/resnet50"),
        ("keras/ResNet50", "keras/resnet50"),
        ("keras/InceptionV3", "keras/inception_v3"),
        ("ResNet50V2", "keras/resnet50v2"),
        ("MobileNet-V1-0.25", "slim/mobilenet_v1_0.25"),
        ("vgg_16", "slim/vgg_16"),
        ("vgg16", "keras/vgg16"),
        ("keras/mobilenet_1.0", "keras/mobilenet_1.0"),
    ],
)
def test_a_name_is_found_however_it_is_written(name: str, id_: str) -> None:
    assert find_row(name).id == id_


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet_v1_11",
            "unknown backbone 'resnet_v1_11': did you mean resnet_v1_101? "
            f"'finetune backbones list' lists all {len(CATALOG)}.",
        ),
        ("slim/resnet101", "did you mean keras/resnet101?"),
        ("keras/densenet12", "did you mean keras/densenet121?"),
        ("vit", "unknown backbone 'vit'. 'finetune backbones list'"),
        ("", "unknown backbone ''."),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(name: str, message: str) -> None:
    with pytest.raises(UnknownBackbone) as caught:
        find_row(name)
    assert message in str(caught.value)
    assert isinstance(caught.value, CheckpointError)
    assert caught.value.exit_code == 2


def test_a_name_of_two_sources_lists_the_choices() -> None:
    with pytest.raises(
        UnknownBackbone, match="'inception_v3' is ambiguous: say slim/inception_v3 or keras/inception_v3"
    ):
        find_row("inception_v3")
    assert find_row("slim/InceptionV3").source == "slim"
    assert find_row("keras/InceptionV3").source == "keras"
    with pytest.raises(UnknownBackbone, match=r"did you mean (keras|slim)/inception_v3\?"):
        find_row("inception_v33")
