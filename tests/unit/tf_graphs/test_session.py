import numpy as np
import pytest
import tensorflow as tf

import finetune
from finetune.diagnosis.doctor import diagnose
from finetune.diagnosis.targets.opening import open_target
from finetune.diagnosis.targets.options import TargetOptions
from finetune.tf_graphs import load_variables, outside_graphs, write_session
from tests.support import small_models

v1 = tf.compat.v1
TEST, TRAIN = small_models.images()["test"], small_models.images()["train"]


def graph(*, resources):
    """A handwritten training graph: the moving averages have updates that no train op depends on."""
    with v1.variable_scope("", use_resource=resources):
        images = v1.placeholder(tf.float32, [None, *small_models.SHAPE], "images")
        labels = v1.placeholder(tf.int64, [None], "labels")
        switch = v1.placeholder(tf.bool, [], "is_training")
        x = tf.nn.conv2d(images, v1.get_variable("kernel", [3, 3, 3, 8]), 2, "VALID")
        gamma = v1.get_variable("gamma", [8], initializer=v1.ones_initializer())
        beta = v1.get_variable("beta", [8], initializer=v1.zeros_initializer())
        moving = [
            v1.get_variable(f"moving_{name}", [8], initializer=start, trainable=False)
            for name, start in (("mean", v1.zeros_initializer()), ("variance", v1.ones_initializer()))
        ]
        moments = tf.nn.moments(x, [0, 1, 2])
        for own, now in zip(moving, moments, strict=True):
            v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, v1.assign(own, own * 0.9 + now * 0.1))
        mean, variance = (tf.where(switch, now, own) for own, now in zip(moving, moments, strict=True))
        x = tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3))
        logits = tf.matmul(tf.reduce_mean(x, [1, 2]), v1.get_variable("weights", [8, small_models.CLASSES]))
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        train = v1.train.AdamOptimizer(0.05).minimize(loss)
    return images, labels, switch, logits, train


@pytest.fixture(params=[True, False], ids=["resources", "references"])
def session(request):
    """A session of a finalized graph after some steps, with its tensors."""
    with tf.Graph().as_default() as built:
        v1.set_random_seed(0)
        images, labels, switch, logits, train = graph(resources=request.param)
        start = v1.global_variables_initializer()
        built.finalize()
        with v1.Session(graph=built) as session:
            session.run(start)
            for step in range(40):
                rows = slice(step % 5 * 40, step % 5 * 40 + 40)
                session.run(train, {images: TRAIN[0][rows], labels: TRAIN[1][rows], switch: True})
            yield session, {"images": images, "logits": logits, "is_training": switch}


def accuracy(session, tensors, *, training):
    feed = {tensors["images"]: TEST[0], tensors["is_training"]: training}
    return np.mean(session.run(tensors["logits"], feed).argmax(axis=1) == TEST[1])


def test_a_live_session_is_diagnosed_and_repaired(session):
    session, tensors = session
    before = session.run(v1.global_variables())
    operations = len(session.graph.get_operations())
    found = finetune.diagnose_bn(session=session, **tensors, test=TEST, train=TRAIN)
    assert found.cause == "updates-never-ran"
    assert found.accuracy["test"]["is_training_false"] == accuracy(session, tensors, training=False)
    assert found.remedy.startswith("finetune.recalibrate_bn(session=session, ")
    for one, other in zip(before, session.run(v1.global_variables()), strict=True):
        np.testing.assert_array_equal(one, other)
    done = finetune.recalibrate_bn(session=session, **tensors, test=TEST, train=TRAIN)
    assert done.after.accuracy == accuracy(session, tensors, training=False) > done.before.accuracy + 0.2
    assert len(session.graph.get_operations()) == operations


@pytest.mark.slow
def test_the_verdict_is_that_of_its_files(session, tmp_path):
    session, tensors = session
    write_session(session, tmp_path / "model.ckpt-40")
    pixels = {"train": TRAIN, "test": TEST}
    arrays = {f"x_{name}": np.round(images * 255).astype(np.uint8) for name, (images, _) in pixels.items()}
    np.savez(tmp_path / "data.npz", **arrays, **{f"y_{name}": labels for name, (_, labels) in pixels.items()})
    options = TargetOptions(
        meta_graph=tmp_path / "model.ckpt-40.meta", data=str(tmp_path / "data.npz"), preprocess="unit"
    )
    with outside_graphs():
        of_files = diagnose(open_target(options)).to_json()
    live = finetune.diagnose_bn(session=session, **tensors, test=TEST, train=TRAIN).to_dict()
    assert live["verdict"]["cause"] == of_files["verdict"]["cause"]
    assert live["accuracy"] == of_files["accuracy"]
    assert live["loss"]["test"] == pytest.approx(of_files["loss"]["test"], rel=1e-5)


def test_values_reach_their_variables(session):
    session, _ = session
    load_variables(session, {"moving_mean": np.arange(8.0)})
    with session.graph.as_default():
        (mean,) = (one for one in v1.global_variables() if one.op.name == "moving_mean")
        np.testing.assert_array_equal(session.run(mean), np.arange(8.0))


def test_variables_without_a_value(tmp_path):
    with tf.Graph().as_default() as built:
        graph(resources=True)
    with v1.Session(graph=built) as session, pytest.raises(finetune.FinetuneError, match="no variable of the session"):
        write_session(session, tmp_path / "it")


def test_what_a_session_needs(session):
    session, tensors = session
    with pytest.raises(finetune.WrongUse, match="a session needs images= and logits="):
        finetune.diagnose_bn(session=session, test=TEST, train=TRAIN)
    with pytest.raises(finetune.FinetuneError, match="logits nothing: the graph has no such tensor"):
        finetune.diagnose_bn(session=session, images=tensors["images"], logits="nothing", test=TEST, train=TRAIN)
