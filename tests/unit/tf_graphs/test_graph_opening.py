"""However BatchNorm and its switch were written: both modes are what the graph's own session gives."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.training.moving_averages import assign_moving_average

from checkpoints.formats.slim import write_slim
from finetune.data.batches import EvalSet
from finetune.data.dataset import Split
from finetune.data.preprocessing import find_preprocessing
from finetune.diagnosis.measure import examine
from finetune.errors import FinetuneError
from finetune.tf_graphs import open_graph
from tests.support.tf1_forms import Form, Saved, arrays, conv, fused, head, images, network, save, switch, v1


def agrees(saved: Saved, **options):
    subject = open_graph(saved.meta, **options)
    batch, _ = subject.forward("batch")(saved.images)
    moving, _ = subject.forward("moving")(saved.images)
    np.testing.assert_allclose(batch, saved.true, atol=2e-6)
    np.testing.assert_allclose(moving, saved.false, atol=2e-6)
    assert np.abs(saved.true - saved.false).max() > 0.01
    return subject


def cond_around_everything():
    """Both normalisations inside the branches, the average assigned beside the first (as in many tutorials)."""

    def batch_norm(x, training, name):
        gamma, beta, mean, variance = arrays(name, 6, "gamma", "beta", "pop_mean", "pop_var")

        def train():
            m, v = tf.nn.moments(x, [0, 1, 2])
            updates = [v1.assign(mean, mean * 0.9 + m * 0.1), v1.assign(variance, variance * 0.9 + v * 0.1)]
            with tf.control_dependencies(updates):
                return tf.nn.batch_normalization(x, m, v, beta, gamma, 1e-3)

        return tf.cond(training, train, lambda: tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3))

    x, training = images(), switch("phase")
    h = tf.nn.relu(batch_norm(conv(x, "a"), training, "a"))
    logits, loss = head(tf.nn.relu(batch_norm(conv(h, "b"), training, "b")))
    v1.train.GradientDescentOptimizer(0.1).minimize(loss)
    return Form(x, logits, {training: True}, {training: False})


@pytest.mark.slow
@pytest.mark.parametrize("v2", [True, False])
def test_assignments_beside_the_batch_branch_are_seen_and_not_run(tmp_path, v2):
    subject = agrees(save(tmp_path, cond_around_everything, v2=v2))
    facts = subject.facts
    assert [layer.name for layer in subject.layers] == ["a", "b"]
    assert subject.decay == {"a": 0.9, "b": 0.9}
    assert (facts.step, facts.wiring.collected, facts.wiring.train_op_runs_updates) == (7, 0, True)


def debiased_in_a_branch():
    """The averages are updated in the branch that gives the moments, zero-debiased as `assign_moving_average` does (as
    tflearn's layer, and many blogs)."""
    training = switch("phase")

    def batch_norm(x, name):
        gamma, beta, mean, variance = arrays(name, 6, "gamma", "beta", "moving_mean", "moving_variance")

        def updated():
            m, v = tf.nn.moments(x, [0, 1, 2])
            with tf.control_dependencies([assign_moving_average(a, b, 0.9) for a, b in ((mean, m), (variance, v))]):
                return tf.identity(m), tf.identity(v)

        m, v = tf.cond(training, updated, lambda: (tf.identity(mean), tf.identity(variance)))
        return tf.nn.batch_normalization(x, m, v, beta, gamma, 1e-3)

    x = images()
    logits, loss = head(tf.nn.relu(batch_norm(conv(tf.nn.relu(batch_norm(conv(x, "a"), "a")), "b"), "b")))
    v1.train.GradientDescentOptimizer(0.1).minimize(loss)
    return Form(x, logits, {training: True}, {training: False})


@pytest.mark.parametrize("v2", [True, False])
def test_zero_debiased_averages_are_updates(tmp_path, v2):
    """A resource variable's average is computed from one that is read after it was assigned."""
    subject = agrees(save(tmp_path, debiased_in_a_branch, v2=v2))
    assert subject.decay == {"a": pytest.approx(0.9), "b": pytest.approx(0.9)}
    assert subject.facts.wiring.train_op_runs_updates
    assert subject.facts.updates == 7


def weighted(placeholder):
    """slim's `batch_norm(batch_weights=...)`: the moments count some images more than others."""
    x, training = images(), switch()
    weights = v1.placeholder(tf.float32, [None], name="w") if placeholder else tf.abs(x[:, 0, 0, 0]) + 0.1

    def batch_norm(x, name):
        gamma, beta, mean, variance = arrays(name, 6, "gamma", "beta", "moving_mean", "moving_variance")
        m, v = tf.nn.weighted_moments(x, [0, 1, 2], tf.reshape(weights, [-1, 1, 1, 1]))
        for one, value in ((mean, m), (variance, v)):
            v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, assign_moving_average(one, value, 0.9, zero_debias=False))
        m, v = tf.cond(training, lambda: (m, v), lambda: (tf.identity(mean), tf.identity(variance)))
        return tf.nn.batch_normalization(x, m, v, beta, gamma, 1e-3)

    logits, _ = head(tf.nn.relu(batch_norm(conv(x, "a"), "a")))
    feed = {weights: np.ones(8)} if placeholder else {}
    return Form(x, logits, {training: True, **feed}, {training: False, **feed})


def test_moments_with_weights(tmp_path):
    subject = agrees(save(tmp_path, lambda: weighted(False)))
    assert subject.decay == {"a": pytest.approx(0.9)}


def test_weights_of_images_that_are_fed_are_asked_for(tmp_path):
    saved = save(tmp_path, lambda: weighted(True))
    with pytest.raises(FinetuneError, match=r"depend on w:0 .* as well: give it a value with --feed w=VALUE"):
        open_graph(saved.meta)
    agrees(saved, feeds=("w=1",))


def a_switch_that_says_test():
    """`tst` is true in a test; no gamma, a dense layer; the average is run by hand (Martin Gorner's MNIST)."""

    def batch_norm(x, test, axes, offset):
        average = tf.train.ExponentialMovingAverage(0.998)
        m, v = tf.nn.moments(x, axes)
        update = average.apply([m, v])
        mean = tf.cond(test, lambda: average.average(m), lambda: m)
        variance = tf.cond(test, lambda: average.average(v), lambda: v)
        return tf.nn.batch_normalization(x, mean, variance, offset, None, 1e-5), update

    x, test = v1.placeholder(tf.float32, [8, 768], name="X"), switch("tst")
    h = conv(tf.transpose(tf.reshape(x, [-1, 3, 16, 16]), [0, 2, 3, 1]), "a")
    h, first = batch_norm(h, test, [0, 1, 2], arrays("a", 6, "beta")[0])
    h = tf.matmul(tf.reshape(tf.nn.relu(h), [-1, 16 * 16 * 6]), v1.get_variable("dense", [16 * 16 * 6, 5]))
    h, second = batch_norm(h, test, [0], arrays("b", 5, "beta")[0])
    logits, loss = head(tf.nn.relu(h))
    v1.train.AdamOptimizer().minimize(loss)
    tf.group(first, second)
    return Form(x, logits, {test: False}, {test: True}, lambda x: x.transpose(0, 3, 1, 2).reshape(8, -1))


@pytest.mark.slow
@pytest.mark.parametrize("v2", [True, False])
def test_an_inverted_switch_rows_of_channels_and_a_dense_layer(tmp_path, v2):
    subject = agrees(save(tmp_path, a_switch_that_says_test, v2=v2))
    assert any("tst:0 (bool []): found; False is batch statistics" in line for line in subject.facts.lines)
    assert any("their layout is flat-nchw" in line for line in subject.facts.lines)
    assert set(subject.decay.values()) == {0.998}
    assert (subject.batch_size, subject.input_size) == (8, (16, 16))
    # Its average is run by a session.run of its own, which no graph tells; and its statistics have moved.
    assert (subject.facts.wiring.train_op_runs_updates, subject.facts.updates) == (False, None)


def a_switch_in_arithmetic():
    x, training = images((None, None, None, 3)), v1.placeholder_with_default(0.0, [], "train_flag")
    h = conv(x, "a")
    m, v = tf.nn.moments(h, [0, 1, 2])
    mean, variance = arrays("a", 6, "moving_mean", "moving_variance")
    used_mean, used_variance = training * m + (1 - training) * mean, training * v + (1 - training) * variance
    for moving, batch in ((mean, m), (variance, v)):
        v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, v1.assign_sub(moving, 0.1 * (moving - batch)))
    logits, _ = head(tf.nn.relu((h - used_mean) / tf.sqrt(used_variance + 1e-5) * 1.5 + 0.1))
    return Form(x, logits, {training: 1.0}, {training: 0.0})


def test_a_switch_written_as_arithmetic(tmp_path):
    subject = agrees(save(tmp_path, a_switch_in_arithmetic))
    assert subject.decay == {"a": 0.9}
    assert (subject.input_size, subject.batch_size) == (None, None)
    assert subject.facts.wiring.train_op_runs_updates is None


def switched_by(kind):
    """The switch is a variable, or is computed from a text, a number or a vector."""

    def build():
        if kind in ("bool variable", "int variable"):
            dtype = tf.bool if kind == "bool variable" else tf.int32
            given = tf.identity(v1.get_variable("step", [], dtype, trainable=False, initializer=tf.zeros_initializer()))
            training = given if dtype == tf.bool else tf.equal(given, 1)
            values = (True, False) if dtype == tf.bool else (1, 0)
        elif kind == "text":
            given, values = v1.placeholder(tf.string, [], "mode"), ("train", "test")
            training = tf.equal(given, "train")
        else:
            given, values = v1.placeholder(tf.bool, [1], "mode"), ([True], [False])
            training = given[0]
        made = network(training=training)
        return Form(made.x, made.logits, {given: values[0]}, {given: values[1]})

    return build


@pytest.mark.slow
@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("kind", ["bool variable", "int variable", "text", "vector"])
def test_a_switch_that_is_a_variable_or_computed(tmp_path, kind, v2):
    subject = agrees(save(tmp_path, switched_by(kind), v2=v2))
    assert len(subject.layers) == 2
    assert any(": found; True is batch statistics" in line for line in subject.facts.lines)


def test_placeholders_as_tensorflow_0_wrote_them(tmp_path):
    """Their attribute is a shape without axes; the shape itself is among the inferred ones."""
    saved = save(tmp_path, network)
    proto = v1.MetaGraphDef.FromString(saved.meta.read_bytes())
    proto.graph_def.versions.producer = 21
    for node in proto.graph_def.node:
        if node.op == "Placeholder":
            node.attr["shape"].shape.Clear()
    saved.meta.write_bytes(proto.SerializeToString())
    assert agrees(saved).input_size == (16, 16)


def channels_first():
    x, training = images((None, 3, 16, 16)), v1.placeholder_with_default(False, [], "t")
    with v1.device("/device:GPU:0"):
        h = tf.nn.relu(fused(conv(x, "a", "NCHW"), training, "a", "NCHW"))
        h = v1.nn.max_pool(h, [1, 1, 2, 2], [1, 1, 2, 2], "SAME", data_format="NCHW")
        logits, _ = head(tf.reduce_mean(tf.nn.relu(fused(conv(h, "b", "NCHW"), training, "b", "NCHW")), [2, 3]))
    return Form(x, logits, {training: True}, {training: False}, lambda x: x.transpose(0, 3, 1, 2))


def channels_last():
    x, training = images(), v1.placeholder_with_default(False, [], "t")
    h = tf.nn.relu(fused(conv(x, "a"), training, "a"))
    h = tf.nn.max_pool2d(h, 2, 2, "SAME")
    logits, _ = head(tf.nn.relu(fused(conv(h, "b"), training, "b")))
    return Form(x, logits, {training: True}, {training: False})


def test_a_graph_for_a_gpu_runs_here(tmp_path):
    """The same weights in both; this machine's own session cannot run channels that come first."""
    (tmp_path / "last").mkdir()
    last = save(tmp_path / "last", channels_last)
    first = save(tmp_path, channels_first, run=False)
    agrees(Saved(first.meta, last.images, last.true, last.false))


def used_twice():
    x, training = images(), switch()
    with v1.variable_scope("shared", reuse=v1.AUTO_REUSE):
        sides = [tf.nn.relu(fused(conv(image, "a"), training, "a")) for image in (x, x * 2 + 1)]
    logits, _ = head(sides[0] - sides[1])
    return Form(x, logits, {training: True}, {training: False})


def test_a_layer_used_twice_is_one_layer_with_the_statistics_of_both(tmp_path):
    saved = save(tmp_path, used_twice)
    subject = agrees(saved)
    assert [layer.name for layer in subject.layers] == ["shared/a"]
    _, ((mean, variance, n),) = subject.forward("batch")(saved.images)
    kernel = tf.train.load_checkpoint(str(saved.meta.with_suffix(""))).get_tensor("shared/a/kernel")
    both = [tf.nn.conv2d(tf.constant(x), kernel, 1, "SAME").numpy() for x in (saved.images, saved.images * 2 + 1)]
    seen = np.concatenate(both).reshape(-1, 6).astype(np.float64)
    assert n == 2 * 8 * 16 * 16
    np.testing.assert_allclose(mean, seen.mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, seen.var(0), rtol=1e-5)


def fed_by_files():
    records = tf.data.TFRecordDataset("there-is-no-such-file").map(lambda text: tf.io.decode_raw(text, tf.float32))
    pairs = records.map(lambda x: tf.reshape(x, [16, 16, 3])).batch(8, drop_remainder=True)
    x = v1.data.make_initializable_iterator(pairs).get_next()
    return network(x=x)


def test_an_input_pipeline_is_cut(tmp_path):
    subject = agrees(save(tmp_path, fed_by_files))
    assert subject.facts.lines[0].startswith(
        "input IteratorGetNext:0 (float32 [8, 16, 16, 3]): what the input pipeline"
    )
    assert subject.batch_size == 8


def pixels_loops_and_scalars():
    x, other, temperature = images(dtype=tf.uint8), switch("other"), v1.placeholder(tf.float32, [], "temperature")

    def between(h):
        _, h = tf.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, h * 1.1), [0, h])
        return tf.cond(other, lambda: tf.nn.dropout(h, 0.5), lambda: h) / temperature

    training = switch()
    made = network(tf.cast(x, tf.float32) / 255, training, between)
    feeds = {other: False, temperature: 2.0}
    return Form(x, made.logits, {**made.true, **feeds}, {**made.false, **feeds}, lambda x: x.astype(np.uint8))


@pytest.mark.parametrize("v2", [True, False])
def test_pixels_loops_and_other_placeholders(tmp_path, v2):
    saved = save(tmp_path, pixels_loops_and_scalars, v2=v2, pixels=True)
    subject = agrees(saved, feeds=["temperature=2.0"])
    assert any(line.startswith("other:0 (bool []) = False: guessed") for line in subject.facts.lines)
    pixels = EvalSet(Split(saved.images.astype(np.uint8), np.arange(8) % 3), 8, 16, find_preprocessing("raw"))
    evidence = examine(subject, test=pixels, train=pixels, extent="all")
    assert [trial.name for trial in evidence.preprocessing.trials] == ["raw"]
    with pytest.raises(Exception, match="takes uint8 pixels, but was given values from -"):
        subject.forward("moving")(saved.images - 128)


def dropped(kind):
    def build(training=None):
        training = switch()
        if kind == "none":
            return network(training=training)
        if kind == "keep_prob":
            keep = v1.placeholder(tf.float32, name="keep_prob")
            made = network(training=training, between=lambda h: v1.nn.dropout(h, keep_prob=keep))
            return Form(made.x, made.logits, {**made.true, keep: 1.0}, {**made.false, keep: 1.0})
        if kind == "first TensorFlow":

            def between(h):  # tf.nn.dropout as it was up to 1.12
                keep = tf.constant(0.6)
                mask = tf.floor(keep + tf.random.uniform(tf.shape(h)))
                return tf.cond(training, lambda: tf.divide(h, keep) * mask, lambda: h)

            return network(training=training, between=between)
        if kind == "stochastic depth":

            def between(h):
                mask = tf.floor(0.7 + tf.random.uniform([tf.shape(h)[0], 1, 1, 1]))
                return tf.cond(training, lambda: h / 0.7 * mask, lambda: h)

            return network(training=training, between=between)
        return network(training=training, between=lambda h: tf.cond(training, lambda: tf.nn.dropout(h, 0.4), lambda: h))

    return build


@pytest.mark.slow
@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("kind", ["tf.nn.dropout", "keep_prob", "first TensorFlow", "stochastic depth"])
def test_dropout_is_off_with_batch_statistics(tmp_path, kind, v2):
    """The network without dropout, with the same weights, is what it must equal."""
    (tmp_path / "plain").mkdir()
    plain = save(tmp_path / "plain", dropped("none"), v2=v2)
    with_dropout = save(tmp_path, dropped(kind), v2=v2)
    subject = agrees(Saved(with_dropout.meta, plain.images, plain.true, plain.false))
    assert any(line.startswith("dropout off in both modes: cut at ") for line in subject.facts.lines)


def noisy():
    return network(between=lambda h: h + 0.1 * tf.random.normal(tf.shape(h)))


def test_other_randomness_is_named(tmp_path):
    subject = open_graph(save(tmp_path, noisy, run=False).meta)
    assert any("still random" in line and "random_normal" in line for line in subject.facts.lines)


def partly_frozen():
    x, training = images(), switch()
    gamma, beta, mean, variance = arrays("frozen", 6, "gamma", "beta", "moving_mean", "moving_variance")
    h = v1.nn.fused_batch_norm(conv(x, "frozen"), gamma, beta, mean, variance, is_training=False)[0]
    return network(x=tf.nn.relu(h)[..., :3], training=training), x


def test_a_layer_that_is_not_switched_is_said(tmp_path):
    def build():
        made, x = partly_frozen()
        return Form(x, made.logits, made.true, made.false)

    subject = agrees(save(tmp_path, build))
    assert [layer.name for layer in subject.layers] == ["a", "b"]
    assert any("1 BN layer uses moving statistics in both modes" in line for line in subject.facts.lines)


def renamed():
    made = network(x=images(), training=switch())
    variables = {f"net/{v.op.name}" if "moving" in v.op.name else v.op.name: v for v in v1.global_variables()}
    v1.train.Saver(variables, name="other")
    return made


def test_variables_are_found_under_the_names_a_saver_gives_them(tmp_path):
    saved = save(tmp_path, renamed)
    reader = tf.train.load_checkpoint(str(saved.meta.with_suffix("")))
    arrays = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    write_slim(tmp_path / "renamed", {f"net/{n}" if "moving" in n else n: a for n, a in arrays.items()})
    subject = agrees(saved, checkpoint=tmp_path / "renamed")
    subject.write(tmp_path / "again")
    assert "net/a/moving_mean" in tf.train.load_checkpoint(str(tmp_path / "again")).get_variable_to_shape_map()


def test_statistics_that_a_saver_left_out_are_at_their_start(tmp_path):
    """A Saver of tf.trainable_variables(): as the graph's own session computes with statistics at 0 and 1."""
    saved = save(tmp_path, network)
    reader = tf.train.load_checkpoint(str(saved.meta.with_suffix("")))
    whole = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    weights = {name: array for name, array in whole.items() if "moving" not in name}
    start = {name: np.full_like(array, "variance" in name) for name, array in whole.items() if name not in weights}
    write_slim(tmp_path / "weights", weights)
    write_slim(tmp_path / "start", weights | start)
    with tf.Graph().as_default(), v1.Session() as session:
        v1.train.import_meta_graph(str(saved.meta)).restore(session, str(tmp_path / "start"))
        expected = session.run("logits:0", {"x:0": saved.images, "is_training:0": False})
    subject = open_graph(saved.meta, checkpoint=tmp_path / "weights")
    assert subject.facts.statistics_absent
    assert any("the file lacks 4 moving statistics" in line for line in subject.facts.lines)
    np.testing.assert_allclose(subject.forward("moving")(saved.images)[0], expected, atol=2e-6)
    np.testing.assert_allclose(subject.forward("batch")(saved.images)[0], saved.true, atol=2e-6)
    subject.write(tmp_path / "again")
    written = tf.train.load_checkpoint(str(tmp_path / "again"))
    assert set(written.get_variable_to_shape_map()) == set(whole)
    assert all(np.array_equal(written.get_tensor(name), array) for name, array in start.items())
    assert not open_graph(saved.meta).facts.statistics_absent


def in_parts():
    made = network()
    kernel = v1.get_variable("parts", [3, 4], partitioner=v1.fixed_size_partitioner(2))
    return Form(made.x, tf.matmul(made.logits, kernel, name="more"), made.true, made.false)


@pytest.mark.parametrize("v2", [True, False])
def test_partitioned_variables_and_logits_by_name(tmp_path, v2):
    saved = save(tmp_path, in_parts, v2=v2)
    assert agrees(saved, logits="more").outputs == 4
    assert open_graph(saved.meta).outputs == 3  # what the loss is made of
    assert open_graph(tmp_path, logits="more:0").outputs == 4  # a training directory


def test_a_checkpoint_in_one_file(tmp_path):
    saved = save(tmp_path, network, version=v1.train.SaverDef.V1)
    assert saved.meta.with_suffix("").is_file()
    subject = agrees(saved)
    subject.write(tmp_path / "new")
    agrees(Saved(tmp_path / "new.meta", saved.images, saved.true, saved.false))


def trained():
    made = network()
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=[0] * 8, logits=made.logits))
    v1.train.AdamOptimizer().minimize(loss)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("v2", [True, False])
def test_stale_shapes_and_attributes_of_other_versions_do_no_harm(tmp_path, v2):
    saved = save(tmp_path, trained, v2=v2)
    meta = v1.MetaGraphDef()
    meta.ParseFromString(saved.meta.read_bytes())
    functions = [node for function in meta.graph_def.library.function for node in function.node_def]
    for node in (*meta.graph_def.node, *functions):
        if node.op.startswith("FusedBatchNorm"):
            del node.attr["_output_shapes"].list.shape[:]
            node.attr["_output_shapes"].list.shape.add().dim.add(size=77)
        if node.op == "Conv2D":
            node.attr["of_another_version"].b = True
    saved.meta.write_bytes(meta.SerializeToString())
    if not v2:
        with tf.Graph().as_default(), pytest.raises(ValueError, match="shape"):
            v1.train.import_meta_graph(str(saved.meta))
    agrees(saved)


def shaped(shape, *, rows, reshaped=True):
    """A network of images of `shape`, as they are or as rows of pixels; `reshaped`: convolutions read the rows."""
    x = v1.placeholder(tf.float32, [None, int(np.prod(shape))] if rows else [None, *shape], "x")
    training = switch()
    if reshaped:
        h = fused(conv(tf.reshape(x, [-1, *shape]) if rows else x, "a"), training, "a")
    else:
        h = fused(tf.matmul(x, v1.get_variable("dense", [x.shape[1], 6]))[:, None, None], training, "a")
    lay = (lambda images: images.reshape(8, -1)) if rows else (lambda images: images)
    return Form(x, head(tf.nn.relu(h))[0], {training: True}, {training: False}, lay)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((28, 28, 1), {"rows": True}),
        ((28, 28, 1), {"rows": True, "reshaped": False}),
        ((12, 20, 1), {"rows": True}),
        ((12, 16, 3), {"rows": True}),
        ((16, 16, 1), {"rows": False}),
        ((12, 20, 3), {"rows": False}),
        ((12, 20, 4), {"rows": False}),
    ],
)
def test_grey_images_rows_of_784_and_images_that_are_not_square(shape, options, tmp_path):
    subject = agrees(save(tmp_path, lambda: shaped(shape, **options), shape=shape))
    assert (*subject.input_size, subject.channels) == shape
