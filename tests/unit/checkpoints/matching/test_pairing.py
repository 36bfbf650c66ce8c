"""A row's variables are found under whatever names slim's programs save them, with what training left beside them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from checkpoints.catalog.lookup import find_row
from checkpoints.formats.aliases import plain
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.matching.fit import fit_row, fits, measurable
from checkpoints.matching.pairing import pair
from checkpoints.matching.structures import structures
from tests.support.keras_2_files import of_2017

MOBILENET = find_row("slim/mobilenet_v1_0.25")
Names = Mapping[str, tuple[int, ...]]


def published(row: str, outputs: int) -> dict[str, tuple[int, ...]]:
    head = find_row(row).head[0].rpartition("/")[0]
    return {
        entry.name: (*entry.shape[:-1], outputs) if entry.name.startswith(head) else entry.shape
        for entry in structures()[row]
    }


def file(shapes: Names) -> Checkpoint:
    def read(name: str) -> np.ndarray:
        return np.zeros(shapes[name], np.float32)

    return plain(Checkpoint(Path("f"), "slim-v2", dict(shapes), read))


def beside(names: Names, *endings: str, only: str = "") -> dict[str, tuple[int, ...]]:
    extra = {f"{name}{ending}": shape for name, shape in names.items() if only in name for ending in endings}
    return {**names, **extra}


FORMS: dict[str, Callable[[Names], Names]] = {
    "inside a scope": lambda names: {f"model/{name}": shape for name, shape in names.items()},
    "in one tower of two": lambda names: {f"tower_{n}/{name}": shape for n in (0, 1) for name, shape in names.items()},
    "the scope twice": lambda names: {f"MobilenetV1/{name}": shape for name, shape in names.items()},
    "the scope renamed": lambda names: {name.replace("MobilenetV1", "net"): shape for name, shape in names.items()},
    "averages alone": lambda names: {f"{name}/ExponentialMovingAverage": shape for name, shape in names.items()},
    "averages of weights": lambda names: {
        f"{name}{'' if 'moving' in name else '/ExponentialMovingAverage'}": shape for name, shape in names.items()
    },
    "averages beside": lambda names: beside(names, "/ExponentialMovingAverage"),
    "optimizers": lambda names: {
        **beside(names, "/AdamWOptimizer", "/AdamWOptimizer_1", "/LARSOptimizer", "/RMSProp_2", only="weights"),
        **{f"train/{name}/Momentum": shape for name, shape in names.items()},
        **dict.fromkeys(("beta1_power", "train_op/global_step", "Variable", "learning_rate", "total_loss/avg"), ()),
    },
    "zero-debiased": lambda names: beside(names, "/biased", "/local_step", only="moving"),
    "renormalised": lambda names: {
        **names,
        **{f"{name}_weight".replace("moving", "renorm"): () for name in names if "moving" in name},
        **{name.replace("moving_variance", "renorm_stddev"): shape for name, shape in names.items()},
    },
    "quantised": lambda names: {
        **names,
        **{
            name.replace("/weights", f"/{kind}_quant/{end}"): ()
            for name in names
            if name.endswith("/weights")
            for kind in ("weights", "act")
            for end in ("min", "max", "weights_quant/min/biased", "act_quant/max/local_step")
        },
        "MobilenetV1/input_quant/min": (1,),
    },
    "mirrored": lambda names: beside(names, "/replica_1", "/replica_2"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("outputs", [1001, 6])
def test_every_form_fits_its_row(form: str, outputs: int) -> None:
    names = published(MOBILENET.id, outputs)
    opened, entries = file(FORMS[form](names)), structures()[MOBILENET.id]
    fit = fit_row(opened, MOBILENET, entries)
    assert fit.exact, fit.why_not()
    assert fit.outputs == outputs
    paired = pair(opened, MOBILENET, entries).names
    for name, shape in names.items():
        if "Logits" not in name:
            assert opened.read(paired[name]).shape == shape
            assert paired[name].split("/")[-2:] == name.split("/")[-2:]


@pytest.mark.parametrize("form", ["", "inside a scope", "the scope renamed", "averages alone"])
@pytest.mark.parametrize("row", ["slim/mobilenet_v1_0.25", "slim/inception_v1"])
def test_without_moving_statistics_the_row_is_recognised_and_can_be_measured(row: str, form: str) -> None:
    """Inception has no gamma: without statistics its file holds half of the names."""
    spec = find_row(row)
    names = {name: shape for name, shape in published(row, 7).items() if "moving" not in name}
    if form:
        names = dict(FORMS[form]({name.replace("InceptionV1", "MobilenetV1"): one for name, one in names.items()}))
        names = {
            name.replace("MobilenetV1", spec.arguments.get("scope", "MobilenetV1")): one for name, one in names.items()
        }
    opened = file(names)
    best = fits(opened)[0]
    assert (best.spec, best.exact, best.lacks_statistics, best.outputs) == (spec, False, True, 7)
    assert f"'finetune recalibrate-bn --backbone {row} --checkpoint f --data DATA'" in best.remedy("f")
    complete = measurable(opened, spec)
    fit = fit_row(complete, spec, structures()[row])
    assert fit.exact, fit.why_not()
    assert len(complete.absent) == len(best.missing) > 50
    assert measurable(complete, spec) is complete


AUXILIARY = {
    "slim/inception_v3": ("Conv2d_2b_1x1/weights", (1, 1, 768, 5)),
    "slim/inception_v4": ("Aux_logits/weights", (768, 5)),
    "slim/inception_resnet_v2": ("Logits/weights", (768, 5)),
}


@pytest.mark.parametrize("row", AUXILIARY)
def test_the_auxiliary_head_is_explained_in_any_scope(row: str) -> None:
    spec, (logits, shape) = find_row(row), AUXILIARY[row]
    root = spec.head[0].partition("/")[0]
    names = {
        **published(row, 5),
        f"{root}/AuxLogits/Conv2d_1b_1x1/weights": (1, 1, 768, 128),
        f"{root}/AuxLogits/Conv2d_1b_1x1/BatchNorm/moving_mean": (128,),
        f"{root}/AuxLogits/{logits}": shape,
        f"{root}/AuxLogits/{logits.replace('weights', 'biases')}": (5,),
    }
    for form in (
        names,
        {f"my_model/{name}": one for name, one in names.items()},
        {name.replace(root, "Inception"): one for name, one in names.items()},
        {f"tower_1/x/{name}/ExponentialMovingAverage": one for name, one in names.items()},
    ):
        fit = fit_row(file(form), spec, structures()[row])
        assert fit.exact, fit.why_not()
        assert fit.outputs == 5


def test_the_first_resnet50_of_keras_pairs_by_the_names_that_its_layers_had() -> None:
    """In its files the last convolution of a first block comes before that of the shortcut, of the same shape."""
    row, entries = find_row("keras/resnet50"), structures()["keras/resnet50"]
    layers = list(dict.fromkeys(entry.name.rpartition("/")[0] for entry in entries))
    for first in [layer for layer in layers if layer.endswith(("block1_0_conv", "block1_0_bn"))]:
        last = first.replace("_0_", "_3_")
        layers.remove(last)
        layers.insert(layers.index(first), last)
    variables = {layer: [entry for entry in entries if entry.name.startswith(f"{layer}/")] for layer in layers}
    shapes = {
        f"{of_2017(layer)}/{entry.name.rpartition('/')[2]}": entry.shape
        for layer in layers
        for entry in variables[layer]
    }
    opened = Checkpoint(Path("f"), "keras-h5", shapes, lambda name: np.zeros(shapes[name]))
    names = pair(opened, row, entries).names
    assert names["conv2_block1_0_conv/kernel"] == "res2a_branch1/kernel"
    assert names["conv4_block6_3_bn/moving_variance"] == "bn4f_branch2c/moving_variance"
    assert sorted(names.values()) == sorted(shapes)
    assert fits(opened)[0].exact
    assert fits(opened)[0].spec is row


def _detector(names: Names) -> dict[str, tuple[int, ...]]:
    """As TensorFlow's Object Detection API saves an SSD: no logits, feature maps on top, predictors beside."""
    inside = {f"FeatureExtractor/{name}": shape for name, shape in names.items() if "Logits" not in name}
    top = "FeatureExtractor/MobilenetV1/Conv2d_13_pointwise_2_Conv2d_2_3x3_s2_512"
    predictors = {
        f"BoxPredictor_{at}/BoxEncodingPredictor/{one}": (4,) for at in range(6) for one in ("weights", "biases")
    }
    return {**inside, f"{top}/weights": (3, 3, 256, 512), f"{top}/BatchNorm/gamma": (512,), **predictors}


def test_a_backbone_within_a_detector_is_part_of_it():
    shapes = _detector(published(MOBILENET.id, 1001))
    found = fits(file(shapes))[0]
    assert (found.spec.id, found.exact, found.is_part) == (MOBILENET.id, False, True)
    assert set(found.parts) == {name for name in shapes if "Box" in name or "Conv2d_2_3x3_s2_512" in name}
    assert found.why_not() == (
        "it is part of a larger network, with 14 other variables "
        "(FeatureExtractor/MobilenetV1/Conv2d_13_pointwise_2_Conv2d_2_3x3_s2_512/weights, ...): "
        "'finetune run --backbone slim/mobilenet_v1_0.25 --checkpoint FILE' starts from it"
    )


@pytest.mark.parametrize(
    "extra", ["FeatureExtractor/MobilenetV1/Conv2d_14_pointwise/weights", "MobilenetV2/Conv/weights"]
)
def test_more_layers_of_its_own_kind_are_no_parts(extra):
    names = _detector(published(MOBILENET.id, 1001))
    without = {name: shape for name, shape in names.items() if "Conv2d_13" not in name or "s2_512" in name}
    assert not fits(file({**without, extra: (1, 1, 256, 256)}))[0].is_part
    if "MobilenetV1" in extra:
        assert not fits(file({**names, extra: (1, 1, 256, 256)}))[0].is_part
