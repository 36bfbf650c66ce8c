"""Further checks on a model whose answers are known: brightness told apart by the moving statistics."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from finetune.batchnorm.statistics import KerasSubject, recalibrate
from finetune.batchnorm.surgery import adopt
from finetune.data.batches import EvalSet
from finetune.data.dataset import Split
from finetune.data.given import given_set, given_split
from finetune.data.preprocessing import find_preprocessing, suspects
from finetune.diagnosis import thresholds
from finetune.diagnosis.checks import SIZES
from finetune.diagnosis.measure import examine
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.verdict import judge


def split(seed, n=300):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = np.clip(rng.normal(60 + 60 * labels[:, None, None, None], 20, (n, 6, 6, 3)), 0, 255)
    return Split(images.astype(np.uint8), labels)


def fed(images, preprocessing):
    return EvalSet(images, batch_size=30, image_size=6, preprocessing=find_preprocessing(preprocessing))


@pytest.fixture(scope="module")
def subject():
    """Expects what `inception` gives; two BN layers, the second after nothing that matters."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.BatchNormalization(name="first")(inputs)
    x = keras.layers.BatchNormalization(name="second")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    built = adopt(keras.Model(inputs, keras.layers.Dense(3, name="logits")(x)), unbiased=False)
    built.get_layer("logits").kernel.assign(np.full((3, 3), 1 / 3) * np.array([-1.2, 0, 1.2]))
    built.get_layer("logits").bias.assign([-0.72, 0, -0.72])
    tested = KerasSubject(built)
    recalibrate(tested, (images for images, _, _ in fed(split(2), "inception").batches()))
    return tested


def examined(subject, preprocessing, extent="default", **changes):
    test, train = (fed(split(seed), preprocessing) for seed in (0, 1))
    return examine(subject, test=test, train=train, extent=extent, **changes)


@pytest.mark.slow
def test_a_healthy_model_is_not_examined_further(subject):
    evidence = examined(subject, "inception")
    assert evidence.test.is_training_false.accuracy > 0.95
    assert (evidence.preprocessing, evidence.batches, evidence.partly_repaired) == (None, None, None)


@pytest.mark.slow
def test_every_check_is_made_when_asked_for_and_none_when_in_haste(subject):
    evidence = examined(subject, "inception", "all")
    assert {trial.name for trial in evidence.preprocessing.trials} >= {one.name for one in suspects()}
    assert evidence.preprocessing.trials[0].name == "inception"
    assert evidence.preprocessing.trials[0].mean_shift < 0.3
    assert list(evidence.batches.sizes) == list(SIZES)
    # Sorted by class, every image looks average under batch statistics.
    assert evidence.batches.grouped.accuracy < 0.5 < evidence.batches.shuffled.accuracy
    quick = examined(subject, "unit", "quick")
    assert quick.preprocessing is None


@pytest.mark.slow
@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("wrong", ["unit", "raw", "vgg", "inception twice"])
def test_the_preprocessing_that_fits_is_found_though_recalibrating_would_do(subject, wrong):
    evidence = examined(subject, wrong)
    assert evidence.test.recalibrated.accuracy > 0.95
    assert evidence.test.is_training_false.accuracy < 0.7
    assert evidence.preprocessing.best == "inception"
    verdict = judge(evidence, Commands("runs/x"))
    assert verdict.cause == "wrong-preprocessing"
    assert verdict.remedy == "finetune diagnose-bn runs/x --preprocess inception"


def test_black_and_white_exchanged_is_found(subject):
    test, train = (Split(255 - one.images, one.labels) for one in (split(0), split(1)))
    evidence = examine(subject, test=fed(test, "inception"), train=fed(train, "inception"))
    assert evidence.test.is_training_false.accuracy < 0.5
    # Of three classes by brightness, the first and the last are exchanged: here a renumbering explains as much.
    verdict = judge(replace(evidence, labels=None), Commands("runs/x"))
    assert verdict.cause == "wrong-preprocessing"
    assert "the network expects 'inception, negative', with black and white exchanged" in verdict.sentence
    assert verdict.remedy == "finetune diagnose-bn runs/x --preprocess 'inception, negative'"
    assert evidence.preprocessing.test.accuracy > 0.95


STRIPES = np.stack([np.repeat([0, 255, 0, 255, 0, 255], 6).reshape(6, 6)] * 3, axis=-1).astype(np.float64)


@pytest.fixture(scope="module")
def tells_stripes():
    """Tells rows, columns and neither apart, by the mean size of differences down and across."""
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.BatchNormalization(name="first", center=False, scale=False)(inputs)
    differences = keras.layers.Conv2D(2, 2, use_bias=False, name="differences")
    x = keras.layers.GlobalAveragePooling2D()(keras.ops.abs(differences(x)))
    built = adopt(keras.Model(inputs, keras.layers.Dense(3, name="logits")(x)), unbiased=False)
    down = np.array([[1.0, 1.0], [-1.0, -1.0]])
    kernel = np.stack([down, down.T], axis=-1)[:, :, None] / 6
    built.get_layer("differences").kernel.assign(np.repeat(kernel, 3, axis=2))
    built.get_layer("logits").kernel.assign([[8.0, 0.0, 0.0], [0.0, 8.0, 0.0]])
    built.get_layer("logits").bias.assign([0.0, 0.0, 6.0])
    tested = KerasSubject(built)
    recalibrate(tested, (images for images, _, _ in fed(striped(2), "inception").batches()))
    return tested


def striped(seed, n=300):
    """Rows, columns and grey, with noise; of class 0, 1 and 2."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    kinds = np.stack([STRIPES, STRIPES.swapaxes(0, 1), np.full_like(STRIPES, 127)])
    return Split(np.clip(kinds[labels] + rng.normal(0, 10, (n, 6, 6, 3)), 0, 255).astype(np.uint8), labels)


def turned(split):
    return Split(split.images.swapaxes(1, 2), split.labels)


def test_height_and_width_exchanged_is_found_in_all_images_or_in_the_test_images(tells_stripes):
    test, train = striped(0), striped(1)
    evidence = examine(tells_stripes, test=fed(turned(test), "inception"), train=fed(turned(train), "inception"))
    verdict = judge(replace(evidence, labels=None), Commands("runs/x"))  # which rows for columns explain as well
    assert verdict.cause == "wrong-preprocessing"
    assert "'inception, transposed', with height and width exchanged" in verdict.sentence
    evidence = examine(tells_stripes, test=fed(turned(test), "inception"), train=fed(train, "inception"))
    assert evidence.reading.name == "inception, transposed"
    verdict = judge(evidence, Commands("runs/x"))
    assert (verdict.cause, verdict.basis) == ("different-data", "tried")
    assert verdict.sentence.startswith(
        "The test images have height and width exchanged, and the training images have not"
    )
    assert verdict.remedy.endswith("# with height and width of the test images exchanged back")
    arrays = [given_split((one.images / 127.5 - 1, one.labels), what="x", outputs=3, most=300, whole=True)[0]
              for one in (turned(test), train)]  # fmt: skip
    given = [given_set(one, 30, None) for one in arrays]
    evidence = examine(tells_stripes, test=given[0], train=given[1])
    assert (evidence.reading.name, evidence.reading.test.accuracy) == ("inception, transposed", 1.0)


@pytest.mark.slow
def test_a_mean_that_no_known_preprocessing_subtracts_is_recovered_in_numbers(subject):
    true = find_preprocessing("scale=1/255,mean=0.9/0.2/0.55")
    before = subject.snapshot()
    try:
        recalibrate(subject, (images for images, _, _ in fed(split(2), true.name).batches()))
        evidence = examined(subject, "unit")
    finally:
        subject.restore(before)
    assert evidence.test.is_training_false.accuracy < 0.7
    found = find_preprocessing(evidence.preprocessing.best)
    np.testing.assert_allclose(found.scale / np.array(found.std), 1 / 255, rtol=0.1)
    np.testing.assert_allclose(found.mean, true.mean, atol=0.05)
    assert evidence.preprocessing.test.accuracy > 0.95
    verdict = judge(evidence, Commands("runs/x"))
    assert verdict.cause == "wrong-preprocessing"
    assert "was subtracted in training" in verdict.sentence
    assert verdict.remedy == f"finetune diagnose-bn runs/x --preprocess {found.name}"
    best = evidence.preprocessing.recovered[0]
    assert abs(np.array(find_preprocessing(best.name).mean) - true.mean).max() < 0.05
    assert 0 < max(best.mean_errors) < 0.05
    assert any(best.with_errors in line for line in verdict.evidence)


@pytest.mark.slow
def test_layers_that_were_not_restored_are_cured_by_themselves(subject):
    whole = subject.snapshot()
    first = whole["first"]
    subject.restore({**whole, "first": (np.zeros_like(first[0]), np.ones_like(first[1]))})
    before = subject.snapshot()
    evidence = examined(subject, "inception")
    for name, pair in subject.snapshot().items():
        np.testing.assert_array_equal(pair, before[name])
    subject.restore(whole)
    assert evidence.partly_repaired.accuracy > 0.95
    assert judge(evidence, Commands("runs/x")).cause == "partially-restored"


def test_images_come_in_other_sizes_orders_and_parts():
    images = fed(split(0, 70), "raw")
    labels = np.concatenate([np.asarray(kept[1])[np.asarray(kept[2])] for kept in images.at(8).batches()])
    np.testing.assert_array_equal(labels, images.split.labels)
    assert (np.diff(images.grouped().split.labels) >= 0).all()
    shuffled = images.shuffled()
    assert not np.array_equal(shuffled.split.labels, images.split.labels)
    assert sorted(shuffled.split.labels) == sorted(images.split.labels)
    assert len(images.some(20)) == 20
    assert images.some(70) is images
    assert thresholds.TRIAL_IMAGES > 0
