"""Every row's own variables fit that row and are told apart from all others."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from checkpoints.catalog.lookup import CATALOG, find_row
from checkpoints.catalog.spec import BackboneSpec
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.matching.fit import exact_fits, fits
from checkpoints.matching.pairing import of_head
from checkpoints.matching.structures import Entry, structures


def file(shapes: Mapping[str, tuple[int, ...]], kind: str, layers: Mapping[str, str] | None = None) -> Checkpoint:
    return Checkpoint(Path("f"), kind, dict(shapes), lambda name: np.zeros(shapes[name]), layers=layers or {})


def published(spec: BackboneSpec, *, outputs: int | None) -> Checkpoint:
    """The row's file in the form it is published in; `outputs` of its own, or without a head."""
    shapes = {}
    for name, shape, _ in structures()[spec.id]:
        if not of_head(spec, name):
            shapes[name] = shape
        elif outputs:
            shapes[name] = (*shape[:-1], outputs)
    return file(shapes, "keras-h5" if spec.source == "keras" else "slim-v2")


SOME, ALL = 11, 1
"""Every so many-th row is tried: a row is compared with all."""


@pytest.mark.parametrize("each", [SOME, pytest.param(ALL, marks=pytest.mark.slow)])
def test_every_row_fits_itself_and_nothing_else(each: int) -> None:
    problems = []
    for index, spec in list(enumerate(CATALOG))[::each]:
        outputs, head = ((spec.outputs, "published"), (7, "other"), (None, "absent"))[index % 3]
        if not spec.outputs:  # a network to train from scratch
            outputs, head = None, "absent"
        found = exact_fits(published(spec, outputs=outputs))
        if [(fit.spec.id, fit.head, fit.outputs) for fit in found] != [(spec.id, head, outputs)]:
            problems.append(f"{spec.id} with {outputs} outputs: {[fit.summary() for fit in found]}")
    assert not problems, "\n".join(problems)


def keyed(entries: tuple[Entry, ...], layers: bool, prefix: str = "") -> Checkpoint:
    named = {entry.key: entry.name.rpartition("/")[0].replace("/", ".") for entry in entries if layers}
    return file({f"{prefix}{e.key}": e.shape for e in entries}, "keras-weights-h5", named)


@pytest.mark.parametrize("each", [SOME, pytest.param(ALL, marks=pytest.mark.slow)])
def test_every_keras_row_fits_by_its_keys_alone_or_inside_a_model(each: int) -> None:
    for index, spec in list(enumerate(spec for spec in CATALOG if spec.source == "keras"))[::each]:
        entries = structures()[spec.id]
        backbone = tuple(entry for entry in entries if not of_head(spec, entry.name))
        opened = (
            keyed(entries, layers=True),
            keyed(entries, layers=False),
            keyed(backbone, layers=False, prefix="layers/functional/"),
        )[index % 3]
        assert [fit.spec.id for fit in exact_fits(opened)] == [spec.id]


def test_networks_of_one_structure_are_told_apart_by_their_layers_names() -> None:
    entries = structures()["slim/mobilenet_v1_0.25"]
    assert [fit.spec.id for fit in exact_fits(keyed(entries, layers=True))] == ["slim/mobilenet_v1_0.25"]


@pytest.mark.parametrize("numbers", [1, 95])
def test_layers_numbered_otherwise_fit_by_their_order(numbers: int) -> None:
    """As Keras names them in the process that saved the file: `conv2d_17`, `conv2d_111`."""
    shapes = {}
    for name, shape, _ in structures()["keras/inception_v3"]:
        layer, _, variable = name.rpartition("/")
        stem, _, number = layer.rpartition("_")
        count = int(number) if number.isdigit() else 0
        shapes[f"{stem if number.isdigit() else layer}_{count + numbers}/{variable}"] = shape
    assert [fit.spec.id for fit in exact_fits(file(shapes, "keras-h5"))] == ["keras/inception_v3"]


def test_leftovers_of_training_and_the_auxiliary_head_are_explained() -> None:
    spec = find_row("slim/inception_v3")
    shapes = dict(published(spec, outputs=1001).shapes)
    more = {
        f"{name}/{slot}": shape for name, shape in shapes.items() for slot in ("RMSProp", "ExponentialMovingAverage")
    }
    aux = {"InceptionV3/AuxLogits/Conv2d_2a_5x5/weights": (5, 5, 128, 768)}
    found = fits(file({**shapes, **more, **aux, "global_step": ()}, "slim-v1"))
    assert found[0].exact
    assert found[0].spec is spec
    assert fnmatchcase(next(iter(aux)), spec.auxiliary[0])


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["resnet_v1_50", "resnet_v1_101", "resnet_v1_152", "vgg_16", "vgg_19"])
def test_published_files_that_were_converted_from_caffe_hold_a_mean_pixel_as_well(name: str) -> None:
    spec = find_row(name)
    shapes = dict(published(spec, outputs=1000).shapes)
    for scope in (name, f"my_model/{name}"):
        inside = {f"{scope}{one.removeprefix(name)}": shape for one, shape in shapes.items()}
        found = fits(file({**inside, f"{scope}/mean_rgb": (3,), "global_step": ()}, "slim-v1"))
        assert (found[0].spec, found[0].exact, found[0].head) == (spec, True, "published")


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("outputs", [1000, 7, None])
def test_vectors_of_no_layer_are_left_over_and_biases_that_the_network_lacks_are_not(outputs: int | None) -> None:
    spec = find_row("resnet_v1_50")
    shapes = dict(published(spec, outputs=outputs).shapes)
    found = fits(file({**shapes, "resnet_v1_50/class_weights": (7,), "thresholds": (7,)}, "slim-v2"))[0]
    assert (found.spec, found.exact) == (spec, True)
    wrong: dict[str, tuple[int, ...]]
    for wrong in ({"resnet_v1_50/conv1/biases": (64,)}, {"extra/kernel": (3, 3, 8, 8)}):
        found = fits(file({**shapes, **wrong}, "slim-v2"))[0]
        assert found.extra == tuple(wrong)
    whole = file({**shapes, "norm/mean": (3,)}, "keras-h5")
    assert not any(fit.exact for fit in fits(whole))


def test_what_is_wrong_is_said_with_an_example() -> None:
    shapes = dict(published(find_row("resnet_v1_50"), outputs=1000).shapes)
    shapes["resnet_v1_50/conv1/weights"] = (3, 3, 3, 64)
    del shapes["resnet_v1_50/block1/unit_1/bottleneck_v1/conv1/weights"]
    shapes["resnet_v1_50/more/weights"] = (3, 3, 8, 8)
    best = fits(file(shapes, "slim-v2"))[0]
    assert (best.spec.id, best.exact) == ("slim/resnet_v1_50", False)
    assert best.missing == ("resnet_v1_50/block1/unit_1/bottleneck_v1/conv1/weights",)
    assert best.extra == ("resnet_v1_50/more/weights",)
    assert best.why_not() == (
        "1 missing (resnet_v1_50/block1/unit_1/bottleneck_v1/conv1/weights), 1 of another shape "
        "(resnet_v1_50/conv1/weights is [3, 3, 3, 64], expected [7, 7, 3, 64]), 1 only in the file "
        "(resnet_v1_50/more/weights)"
    )


def test_a_file_of_something_else_fits_nothing() -> None:
    other = file({"bert/embeddings/weights": (100, 8), "bert/output/bias": (8,)}, "slim-v2")
    assert not exact_fits(other)
    assert len(fits(other)) == len(CATALOG)


def test_the_nearest_comes_first() -> None:
    shapes = dict(published(find_row("resnet_v1_101"), outputs=1000).shapes)
    del shapes["resnet_v1_101/conv1/weights"]
    assert [fit.spec.id for fit in fits(file(shapes, "slim-v2"))][:2] == ["slim/resnet_v1_101", "slim/resnet_v1_50"]


def test_a_fit_is_summed_up_with_its_head() -> None:
    spec = find_row("resnet_v1_50")
    summaries = [exact_fits(published(spec, outputs=outputs))[0].summary() for outputs in (1000, 7, None)]
    assert summaries == ["slim/resnet_v1_50", "slim/resnet_v1_50 (with a head of 7 outputs)",
                         "slim/resnet_v1_50 (without a head)"]  # fmt: skip


def test_every_difference_counts_and_of_several_one_is_the_example() -> None:
    shapes = dict(published(find_row("resnet_v1_50"), outputs=1000).shapes)
    for number in (1, 2):
        del shapes[f"resnet_v1_50/block1/unit_{number}/bottleneck_v1/conv1/weights"]
        shapes[f"resnet_v1_50/more_{number}/weights"] = (3, 3, 8, 8)
    shapes["resnet_v1_50/conv1/weights"] = (3, 3, 3, 64)
    best = fits(file(shapes, "slim-v2"))[0]
    assert best.differences == 5
    assert best.why_not().startswith("2 missing (resnet_v1_50/block1/unit_1/bottleneck_v1/conv1/weights, ...), 1 of")
    assert best.right == len([entry for entry in structures()["slim/resnet_v1_50"]
                              if not of_head(best.spec, entry.name)]) - 3  # fmt: skip


def test_rows_that_share_nothing_come_after_those_that_share_something() -> None:
    """Though a small network lacks fewer variables than a large one that nearly fits."""
    found = fits(file({"resnet_v1_152/conv1/weights": (7, 7, 3, 64)}, "slim-v2"))
    assert found[0].spec.id == "slim/resnet_v1_152"
    assert [one.right == 0 for one in found] == sorted(one.right == 0 for one in found)
    assert found[0].differences > min(one.differences for one in found)


def test_a_kernel_of_rank_one_is_no_head() -> None:
    spec = find_row("resnet_v1_50")
    shapes = dict(published(spec, outputs=None).shapes)
    assert fits(file({**shapes, "resnet_v1_50/logits/biases": (7,)}, "slim-v2"))[0].head == "absent"
