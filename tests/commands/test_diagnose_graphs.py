"""`diagnose-bn` and `recalibrate-bn` on a TF1 program with `is_training` a Python bool, which reads what they write."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.support.commands import typed
from tests.support.tf1_forms import control_flow, conv, head, v1

SIDE, CLASSES, BATCH = 12, 3, 32


def pictures(count, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    images = 128 + 25 * np.eye(3)[labels][:, None, None] + random.normal(0, 30, (count, SIDE, SIDE, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


def build(training):
    """Averages of moments, whose update nobody runs; they start at 0 and 0."""
    images, labels = v1.placeholder(tf.float32, [None, SIDE, SIDE, 3]), v1.placeholder(tf.int64, [None])
    h = images
    for name in "ab":
        h = conv(h, name)
        m, v = tf.nn.moments(h, [0, 1, 2], name=f"{name}/moments")
        average = tf.train.ExponentialMovingAverage(0.9)
        average.apply([m, v])
        used = (m, v) if training else (average.average(m), average.average(v))
        h = tf.nn.relu(tf.nn.batch_normalization(h, *used, None, None, 1e-3))
    logits, _ = head(h)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    return images, labels, logits, v1.train.AdamOptimizer(0.02).minimize(loss)


def hits(session, images, logits, pixels, labels):
    found = [session.run(logits, {images: pixels[at : at + BATCH] / 255}) for at in range(0, len(pixels), BATCH)]
    return int((np.concatenate(found).argmax(1) == labels).sum())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(the folder, what the program's own sessions classify right of 64 test images: for training, for tests)."""
    folder = tmp_path_factory.mktemp("program")
    (train, test) = pictures(256, 0), pictures(64, 1)
    np.savez(folder / "data.npz", x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    right = []
    for training in (True, False):
        with control_flow(v2=False), tf.Graph().as_default(), v1.Session() as session:
            v1.set_random_seed(0)
            images, labels, logits, step = build(training)
            saver = v1.train.Saver()
            if training:
                session.run(v1.global_variables_initializer())
                for index in range(40):
                    at = slice(index % 8 * BATCH, index % 8 * BATCH + BATCH)
                    session.run(step, {images: train[0][at] / 255, labels: train[1][at]})
                saver.save(session, str(folder / "model.ckpt"), 40)
            else:
                saver.restore(session, str(folder / "model.ckpt-40"))
            right.append(hits(session, images, logits, *test))
    return folder, *right


def test_updates_that_nobody_ran_are_found_and_the_program_restores_the_repaired_copy(written):
    folder, true, false = written
    named = f"--meta-graph {folder} --data {folder / 'data.npz'} --batch-size {BATCH} --preprocess unit"
    result = typed(f"diagnose-bn {named} --quick --json")
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    assert report["verdict"]["cause"] == "updates-never-ran"
    assert "initial values 0 and 0" in report["verdict"]["sentence"]
    assert f"recalibrate-bn {named}" in report["verdict"]["remedy"]
    accuracy = {mode: report["accuracy"]["test"][f"is_training_{mode}"] for mode in ("true", "false")}
    assert accuracy == {"true": true / 64, "false": false / 64}
    assert true > false + 16
    out = folder / "repaired"
    result = typed(f"recalibrate-bn {named} --out {out} --json")
    assert result.exit_code == 0, result.output
    before, after = (tf.train.load_checkpoint(str(path)) for path in (folder / "model.ckpt-40", out))
    shapes = before.get_variable_to_shape_map()
    assert shapes == after.get_variable_to_shape_map()
    changed = {name for name in shapes if before.get_tensor(name).tobytes() != after.get_tensor(name).tobytes()}
    assert len(changed) == 4
    assert all(name.endswith("ExponentialMovingAverage") for name in changed)
    with control_flow(v2=False), tf.Graph().as_default(), v1.Session() as session:
        images, _, logits, _ = build(False)
        v1.train.Saver().restore(session, str(out))
        repaired = hits(session, images, logits, *pictures(64, 1))
    assert repaired / 64 == json.loads(result.stdout)["after"]["accuracy"]
    assert repaired > false + 16
