"""Every figure a verdict turns on, from both sides, and the numbers it compares, by hand."""

import dataclasses

import pytest

from finetune.diagnosis.evidence import PreprocessingCheck, Share, Trial
from finetune.diagnosis.rules.rule import Commands, Reading, size
from finetune.diagnosis.verdict import judge
from tests.unit.diagnosis.made_evidence import (
    BROKEN,
    COMMANDS,
    HEALTHY,
    UNKNOWN,
    facts,
    fed,
    labels,
    layer,
    score,
    ways,
)


def reading(**changes):
    return Reading(dataclasses.replace(HEALTHY, **changes), COMMANDS)


def test_a_layers_size_is_the_larger_of_its_mean_and_half_its_log_variance():
    assert size(layer(log_variance_ratio=0.8)) == 0.4
    assert size(layer(0.5, log_variance_ratio=0.8)) == 0.5
    assert size(layer(float("nan"))) == size(layer(0.1, log_variance_ratio=float("inf"))) == float("inf")


def test_drift_starts_at_a_tenth_of_the_worst_layer_and_not_under_the_threshold():
    first, second, worst = (layer(value, name=str(value)) for value in (0.09, 0.19, 2.0))
    assert reading(layers=(first, second, worst)).onset is worst
    assert reading(layers=(first, layer(0.2), worst)).onset.mean_shift == 0.2
    assert reading(layers=(first, layer(0.1))).onset.mean_shift == 0.1
    assert reading(layers=(first, layer(0.0999))).onset is None


def test_how_far_the_test_images_are_is_counted_in_sigmas_and_in_standard_errors_of_the_first_third():
    layers = (
        layer(noise=0.2, test_shift=0.3, test_log_variance_ratio=0.9),
        layer(noise=0.1, test_shift=0.2),
        layer(noise=None, test_shift=0.01),
        *(layer(test_shift=9.0),) * 6,
    )
    test, train = ways(0.9, 0.9, 0.9, examples=200), ways(0.9, 0.9, 0.9, examples=800)
    sigmas, errors = reading(layers=layers, test=test, train=train, batch_size=50).test_distance
    assert sigmas == 0.45
    # 4 and 16 batches: a difference of their means has the noise of one batch times the root of 1/4 + 1/16. The
    # variances of the first layer are further apart than the means of the second.
    assert errors == pytest.approx(0.45 / (0.2 * (1 / 4 + 1 / 16) ** 0.5))
    one = reading(layers=layers[:1], test=test, train=train, batch_size=1)
    assert one.test_distance[1] == pytest.approx(0.45 / (0.2 * (1 / 200 + 1 / 800) ** 0.5))
    assert reading(layers=layers[2:3]).test_distance == (0.01, 0.0)


@pytest.mark.parametrize(("shift", "noise", "far"), [(0.11, 0.001, True), (0.1, 0.001, False), (0.11, 1.0, False)])
def test_images_are_of_another_kind_when_they_are_far_both_in_sigmas_and_beyond_chance(shift, noise, far):
    assert reading(layers=(layer(noise=noise, test_shift=shift),)).test_is_far == far


def test_without_a_noise_of_batches_there_is_no_ratio_to_it():
    assert reading(layers=(layer(noise=None), layer(noise=0.0))).noise_ratio is None
    assert reading(
        layers=(layer(0.3, noise=0.1), layer(noise=None), layer(0.1, noise=0.1))
    ).noise_ratio == pytest.approx(2.0)


def test_the_command_to_train_is_that_of_a_run():
    assert Commands("x").train("--bn", "train", advice="so") == "# in your own training: so"
    assert Commands("x").recalibrate_or("--bn", "train", advice="so") == (
        "finetune recalibrate-bn x  # or in your own training: so"
    )
    assert Commands("x", preprocess="unit").recalibrate == "finetune recalibrate-bn x --preprocess unit"
    fed = Commands("x", preprocess="unit").diagnose("--quick", preprocess="inception twice")
    assert fed == "finetune diagnose-bn x --preprocess 'inception twice' --quick"
    assert Commands("x", unwritable="no copy can be written").recalibrate == "# no copy can be written"
    assert Commands("x", "y").train(advice="because") == "y  # because"


# What lies just on this side of a threshold of docs/diagnosis.md, and just on the other.
EDGES = {
    "share left 1 %": (
        {**BROKEN, "facts": facts(decay=0.99, updates=459)},
        "nothing of the start is left",
        "is too high",
        {"facts": facts(decay=0.99, updates=458)},
    ),
    "noise ratio 1.5": (
        {**BROKEN, "layers": (layer(0.151, noise=0.1),)},
        "lag behind",
        "are noise",
        {"layers": (layer(0.15, noise=0.1),)},
    ),
    "PyTorch's decay": (
        {**BROKEN, "layers": (layer(0.1, noise=0.1),), "facts": facts(decay=0.21)},
        "of too few values. is",
        "0.2 looks like",
        {"facts": facts(decay=0.2)},
    ),
    "16 values": (
        {
            "test": ways(0.3, 0.7, 0.32),
            "train": ways(0.33, 0.72, 0.33),
            "labels": labels(0.7),
            "layers": (layer(values=15.9),),
        },
        "very few values (16",
        "healthy",
        {"layers": (layer(values=16),)},
    ),
    "batches of 16": (
        {
            "test": ways(0.3, 0.7, 0.32),
            "train": ways(0.33, 0.72, 0.33),
            "labels": labels(0.7),
            "facts": facts(batch_size=15),
        },
        "images (15 a batch)",
        "healthy",
        {"facts": facts(batch_size=16)},
    ),
    "true helps one split alone": (
        {
            "test": ways(0.3, 0.7, 0.32),
            "train": ways(0.33, 0.72, 0.33),
            "labels": labels(0.7),
            "facts": facts(batch_size=4),
        },
        "images (4 a batch)",
        "healthy",
        {"train": ways(0.33, 0.33, 0.33)},
    ),
    "ahead of the data by 8 %": (
        {**BROKEN, "facts": UNKNOWN, "shares": (Share("source", -0.08, 0.2),)},
        "look like averages",
        "lag behind",
        {"shares": (Share("source", -0.079, 0.2),)},
    ),
    "fitted share of 5 %": (
        {**BROKEN, "facts": UNKNOWN, "shares": (Share("source", 0.05, 0.05),)},
        "about 5% of the source",
        "lag behind",
        {"shares": (Share("source", 0.049, 0.04),)},
    ),
    "a fit against noise": (
        {**BROKEN, "layers": (layer(0.151, noise=0.1),), "facts": UNKNOWN, "shares": (Share("source", 0.5, 0.1),)},
        "about 50%",
        "are noise",
        {"layers": (layer(0.15, noise=0.1),)},
    ),
    "80 % of the cure": (
        {**BROKEN, "layers": (layer(0.8, initial=True), layer(0.03)), "partly_repaired": score(0.733)},
        "restored in part",
        "lag behind",
        {"partly_repaired": score(0.731)},
    ),
    "undertrained at 0.6 log 10": (
        {"train": ways(0.5, 0.5, 0.5, loss=1.3816), "test": ways(0.5, 0.5, 0.5), "labels": labels(0.5)},
        "Training images are no better",
        "healthy",
        {"train": ways(0.5, 0.5, 0.5, loss=1.3815)},
    ),
    "labels by 10 %": (
        {"test": ways(0.5, 0.5, 0.5, loss=4), "train": ways(0.55, 0.55, 0.55), "labels": labels(0.5, permuted=0.601)},
        "numbered differently",
        "healthy",
        {"labels": labels(0.5, permuted=0.599)},
    ),
    "a shift of the labels within 2 %": (
        {"test": ways(0.1, 0.1, 0.1, loss=4), "labels": labels(0.1, permuted=0.9, offset=0.88)},
        "adding 1",
        "renumbering 10",
        {"labels": labels(0.1, permuted=0.9, offset=0.879)},
    ),
    "learnt at 1.5 times guessing": (
        {
            "test": ways(0.151, 0.151, 0.151),
            "train": ways(0.16, 0.16, 0.16),
            "labels": labels(0.15),
            "layers": (layer(0.8, initial=True),),
            "facts": UNKNOWN,
        },
        "learnt around",
        "healthy",
        {"test": ways(0.15, 0.15, 0.15)},
    ),
    "preprocessing by 80 % of what is within reach": (
        {
            "test": ways(0.1, 0.2, 0.2),
            "train": ways(0.1, 0.2, 0.2),
            "labels": labels(0.2),
            "preprocessing": fed("vgg", 0.3, 0.181),
        },
        "fed as 'inception'",
        "are noise",
        {"preprocessing": fed("vgg", 0.3, 0.179)},
    ),
    "preprocessing better than the layers at 0 and 1": (
        {
            **BROKEN,
            "layers": (layer(0.8, initial=True), layer(0.03)),
            "preprocessing": fed("vgg", 0.88, 0.92),
            "partly_repaired": score(0.879),
        },
        "fed as",
        "restored in part",
        {"partly_repaired": score(0.88)},
    ),
    "the best of several ways to feed is named": (
        {
            "preprocessing": PreprocessingCheck(
                "caffe",
                256,
                (
                    Trial("caffe", 0.9, 1, 1),
                    Trial("vgg", 0.2, 1, 1),
                    Trial("torch", 0.6, 1, 1),
                    Trial("raw", 0.4, 1, 1),
                ),
            )
        },
        "60.0% with 'torch', the best of 3",
        "the best of 2",
        {
            "preprocessing": PreprocessingCheck(
                "caffe", 256, (Trial("caffe", 0.9, 1, 1), Trial("vgg", 0.2, 1, 1), Trial("raw", 0.4, 1, 1))
            )
        },
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_both_sides_of_a_threshold(name):
    case, here, there, change = EDGES[name]
    for changes, words, others in ((case, here, there), ({**case, **change}, there, here)):
        verdict = judge(dataclasses.replace(HEALTHY, **changes), COMMANDS)
        said = " ".join((verdict.sentence, *verdict.not_because))
        assert words in said
        assert others not in said
