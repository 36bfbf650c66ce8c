"""Graphs that people trained: their accuracies in both modes are what their own session gives, to the image."""

import numpy as np
import pytest
import tensorflow as tf

from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import write_slim
from finetune.batchnorm.statistics import recalibrate
from finetune.data import pipeline
from finetune.data.batches import EvalSet
from finetune.data.preprocessing import find_preprocessing
from finetune.diagnosis.measure import examine
from finetune.evaluation.evaluator import Evaluator, count
from finetune.tf_graphs import open_graph

BATCH = 100
QUICK = ("layers", "slim-averaged", "by-hand")
KINDS = (*QUICK, "layers-updates", "slim")


def batches(split, kind):
    preprocessing = find_preprocessing("unit" if kind == "by-hand" else "inception")
    return lambda: pipeline.eval_batches(split, batch_size=BATCH, image_size=32, preprocessing=preprocessing)


class Opened(dict):
    """Of each kind, when it is first asked for: what was written, and the graph opened."""

    def __init__(self, write):
        self._write = write

    def __missing__(self, kind):
        truth = self._write(kind)
        self[kind] = truth, open_graph(truth.meta)
        return self[kind]


@pytest.fixture(scope="module")
def opened(written):
    written(*QUICK)  # in one process
    return Opened(written)


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("kind", KINDS)
def test_accuracies_are_those_of_the_graphs_own_session(opened, kind):
    truth, subject = opened[kind]
    evaluator = Evaluator(subject)
    for statistics, logits in (("moving", truth.false), ("batch", truth.true)):
        expected = count(logits, truth.test.labels)
        found = evaluator.evaluate(batches(truth.test, kind)(), statistics)
        assert (found.examples, found.correct, found.correct_top5) == (250, expected.correct, expected.correct_top5)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert not np.allclose(truth.false, truth.true, atol=0.1)


@pytest.mark.quick_cases(len(QUICK))
@pytest.mark.parametrize(
    ("kind", "decay", "layers", "collected", "runs", "updates"),
    [
        ("layers", 0.99, ["batch_normalization", "batch_normalization_1"], 4, False, 0),
        ("slim-averaged", 0.95, ["conv1/BatchNorm", "conv2/BatchNorm"], 5, True, 100),
        ("by-hand", 0.99, ["bn0/bn0/moments", "bn1/bn1/moments"], 0, True, 100),
        ("layers-updates", 0.9, ["batch_normalization", "batch_normalization_1"], 4, True, 100),
        ("slim", 0.95, ["conv1/BatchNorm", "conv2/BatchNorm"], 4, False, 0),
    ],
)
def test_what_the_graph_says_of_its_updates(opened, kind, decay, layers, collected, runs, updates):
    subject = opened[kind][1]
    facts = subject.facts
    assert [layer.name for layer in subject.layers] == layers
    assert [layer.epsilon for layer in subject.layers] == [0.001, 0.001]
    assert subject.decay == dict.fromkeys(layers, decay)
    assert (facts.step, facts.updates) == (100, updates)
    assert (facts.wiring.collected, facts.wiring.train_op_runs_updates) == (collected, runs)
    assert len(facts.wiring.updates) == 4
    assert (subject.outputs, subject.input_size) == (10, (32, 32))
    gammas = [layer.gamma for layer in subject.layers]
    reader = open_checkpoint(opened[kind][0].meta.with_suffix(""))
    name = {"by-hand": "bn1/gamma", "layers": "batch_normalization_1/gamma"}.get(kind)
    if name:
        np.testing.assert_array_equal(gammas[1], reader.read(name))
    assert subject.batch_size == (100 if kind == "by-hand" else None)


def test_the_lines_name_what_was_found_and_the_forgotten_updates(opened):
    lines = opened["layers"][1].facts.lines
    assert lines[0].startswith("input x:0 (float32 [?, 32, 32, 3])")
    assert any(
        line == "the graph's train op (ResourceApplyAdam) does not depend on its 4 update operations" for line in lines
    )


@pytest.mark.slow
def test_the_lines_name_where_dropout_was_cut(opened):
    assert any("dropout off in both modes: cut at" in line for line in opened["slim"][1].facts.lines)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_batch_statistics_agree_with_the_graphs_own_updates_(opened, kind):
    truth, subject = opened[kind]
    (images, _, _), *_ = batches(truth.train, kind)()
    _, moments = subject.forward("batch")(images)
    by_updates = subject.statistics_by_updates(np.asarray(images), 0.0)
    for layer, (mean, variance, n) in zip(subject.layers, moments, strict=True):
        kept = subject.decay[layer.name]
        own_mean, own_variance = (value / (1 - kept) for value in by_updates[layer.name])
        # The fused op feeds n/(n-1) times the variance to the average, tf.nn.moments does not.
        factor = n / (n - 1) if kind in ("layers", "slim", "slim-averaged") else 1.0
        np.testing.assert_allclose(own_mean, mean, rtol=1e-4, atol=1e-5 * np.sqrt(variance.max()))
        np.testing.assert_allclose(own_variance, variance * factor, rtol=1e-4)


def test_measured_statistics_are_those_of_numpy_in_float64(opened):
    truth, subject = opened["layers"]
    (images, _, _), *_ = batches(truth.train, "layers")()
    _, ((mean, variance, n), _) = subject.forward("batch")(images)
    kernel = open_checkpoint(truth.meta.with_suffix("")).read("conv2d/kernel").astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(images, np.float64), (3, 3), (1, 2))[:, ::2, ::2]
    seen = np.einsum("bhwcij,ijco->bhwo", windows, kernel).reshape(-1, 8)
    assert n == len(seen) == 100 * 15 * 15
    np.testing.assert_allclose(mean, seen.mean(0), rtol=1e-6, atol=1e-6 * seen.std(0).max())
    np.testing.assert_allclose(variance, seen.var(0), rtol=1e-6)


def test_the_one_examination_finds_the_forgotten_updates_and_leaves_the_graph_as_it_was(opened):
    truth, subject = opened["layers"]
    before = subject.snapshot()
    test, train = (EvalSet(split, BATCH, 32, find_preprocessing("inception")) for split in (truth.test, truth.train))
    evidence = examine(subject, test=test, train=train, extent="quick")
    false, true = (count(logits, truth.test.labels).accuracy for logits in (truth.false, truth.true))
    assert evidence.test.is_training_false.accuracy == false
    assert evidence.test.is_training_true.accuracy == true
    assert evidence.test.recalibrated.accuracy > false + 0.5 * (true - false)
    assert all(layer.at_initial for layer in evidence.layers)
    after = subject.snapshot()
    for name, arrays in before.items():
        for a, b in zip(arrays, after[name], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_every_check_takes_a_graph_of_fixed_batches(opened):
    truth, subject = opened["by-hand"]
    test, train = (
        EvalSet(split, BATCH, 32, find_preprocessing("unit"))
        for split in (truth.test, truth.train.take(np.arange(200)))
    )
    evidence = examine(subject, test=test, train=train, extent="all")
    assert set(evidence.batches.sizes) == {100}
    assert len(evidence.preprocessing.trials) > 5


def test_fixed_batches_are_filled_up_without_being_counted_but_never_measured_so(opened):
    truth, subject = opened["by-hand"]
    images = truth.test.images.astype(np.float32) / 255
    logits, _ = subject.forward("moving")(images)
    np.testing.assert_allclose(logits, truth.false, atol=1e-4)
    with pytest.raises(Exception, match="takes exactly 100 images at once"):
        subject.forward("batch")(images)
    parts, moments = subject.forward("batch")(images[:200])
    np.testing.assert_allclose(parts, truth.true[:200], atol=1e-4)
    assert moments[0][2] == 200 * 16 * 16


def test_a_recalibrated_checkpoint_is_the_same_but_for_the_statistics(opened, tmp_path):
    truth, subject = opened["slim-averaged"]
    before = subject.snapshot()
    recalibrate(subject, (images for images, _, _ in batches(truth.train, "slim-averaged")()))
    evaluated = Evaluator(subject).evaluate(batches(truth.test, "slim-averaged")())
    subject.write(tmp_path / "model.ckpt-100")
    subject.restore(before)

    import tensorflow as tf

    old, new = (
        tf.train.load_checkpoint(str(path)) for path in (truth.meta.with_suffix(""), tmp_path / "model.ckpt-100")
    )
    assert old.get_variable_to_shape_map() == new.get_variable_to_shape_map()
    for name in old.get_variable_to_shape_map():
        same = old.get_tensor(name).tobytes() == new.get_tensor(name).tobytes()
        assert same == ("moving_" not in name), name
    again = open_graph(tmp_path / "model.ckpt-100.meta")
    assert Evaluator(again).evaluate(batches(truth.test, "slim-averaged")()) == evaluated
    with pytest.raises(Exception, match="already there and is not overwritten"):
        subject.write(tmp_path / "model.ckpt-100")
    with pytest.raises(Exception, match="there is no directory"):
        subject.write(tmp_path / "none" / "model.ckpt")


def test_averages_of_weights_are_listed_and_used_when_asked_for(opened):
    truth, plain = opened["slim-averaged"]
    averaged = open_graph(truth.meta, use_averages=True)
    assert not plain.facts.averages.used
    assert plain.facts.averages.averaged == averaged.facts.averages.averaged
    assert set(averaged.facts.averages.without) == {
        f"conv{i}/BatchNorm/moving_{kind}" for i in (1, 2) for kind in ("mean", "variance")
    }
    assert any(
        "without an average, so read as they are: conv1/BatchNorm/moving_mean" in line for line in averaged.facts.lines
    )
    images = truth.test.images.astype(np.float32) / 127.5 - 1
    by_averages, by_weights = (subject.forward("moving")(images)[0] for subject in (averaged, plain))
    assert np.abs(by_averages - by_weights).max() > 0.01
    assert opened["by-hand"][1].facts.averages.averaged == ()


def test_averages_of_moments_without_an_average_are_raw_whatever_they_are_called(opened, tmp_path):
    truth, plain = opened["by-hand"]
    reader = tf.train.load_checkpoint(str(truth.meta.with_suffix("")))
    whole = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    write_slim(tmp_path / "averaged", whole | {f"{n}/ExponentialMovingAverage": a for n, a in plain.kernels.items()})
    averaged = open_graph(truth.meta, tmp_path / "averaged", use_averages=True)
    assert averaged.facts.statistics_raw
    assert not plain.facts.statistics_raw
    assert not any("moving_" in name for name in averaged.facts.averages.without)


def test_what_does_not_fit_is_said(opened):
    _, subject = opened["layers"]
    with pytest.raises(Exception, match="takes images of 32 x 32 px, but was given 40 x 40"):
        subject.forward("moving")(np.zeros((2, 40, 40, 3), np.float32))
