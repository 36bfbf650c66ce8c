"""What is not run, and what is said where a graph, its checkpoint or a request does not do."""

import shutil
import warnings

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tf_keras.src.legacy_tf_layers import normalization

from checkpoints.errors import CheckpointError
from finetune.errors import FinetuneError, UserError, WrongUse
from finetune.tf_graphs import open_graph
from tests.support.tf1_forms import Form, conv, fused, head, images, network, save, switch, v1


def refused(path, message, error=FinetuneError, **options):
    with pytest.raises(error, match=message) as raised:
        open_graph(path, **options)
    assert "\n" not in str(raised.value)


def edited(saved, edit, name="edited.meta"):
    """A copy of a .meta with its graph changed by `edit`."""
    meta = v1.MetaGraphDef()
    meta.ParseFromString(saved.meta.read_bytes())
    edit(meta)
    path = saved.meta.with_name(name)
    path.write_bytes(meta.SerializeToString())
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save(tmp_path_factory.mktemp("plain"), network, run=False)


def hashed(text):
    return tf.strings.to_hash_bucket_fast([text], 5)[0]


def spoiled(operation):
    """The network with something else on the way to its logits."""
    return lambda: network(between=lambda h: h + tf.reshape(tf.cast(operation(), tf.float32), []))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda: tf.strings.length(tf.io.read_file("/etc/hostname")), r"ReadFile in its node 'ReadFile'.*reads a file"),
        (lambda: tf.numpy_function(lambda: np.float32(1), [], tf.float32), r"PyFunc\w* in its node .*runs Python code"),
        (lambda: tf.py_function(lambda: 1.0, [], tf.float32), r"operation EagerPyFunc in its node .*runs Python code"),
        (lambda: tf.size(tf.io.matching_files("/etc/*")), r"operation MatchingFiles .*lists files"),
        (lambda: hashed("1"), r"operation StringToHashBucketFast .*not one of those known to compute only"),
    ],
)  # fmt: skip
def test_operations_that_do_more_than_compute_are_refused_by_name(tmp_path, operation, message):
    refused(save(tmp_path, spoiled(operation), run=False).meta, message)


def test_an_operation_in_a_branch_of_a_function_is_refused_as_well(tmp_path):
    def build():
        other = v1.placeholder_with_default(False, [], "other")
        return network(
            between=lambda h: tf.cond(
                other, lambda: h + tf.cast(tf.strings.length(tf.io.read_file("x")), tf.float32), lambda: h
            )
        )

    refused(save(tmp_path, build, run=False).meta, r"operation ReadFile in its node '\w+/ReadFile'")


def test_an_unknown_operation_is_refused(plain):
    def edit(meta):
        next(node for node in meta.graph_def.node if node.op == "Relu").op = "SomebodysOwnOp"

    message = r"operation SomebodysOwnOp in its node 'Relu' .*TensorFlow does not have"
    refused(edited(plain, edit), message, checkpoint=plain.meta.with_suffix(""))


def test_what_is_beside_the_way_to_the_logits_is_not_run(tmp_path):
    target = tmp_path / "written.txt"

    def build():
        with tf.control_dependencies([tf.io.write_file(str(target), "x")]):
            return network()

    saved = save(tmp_path, build, run=False)
    subject = open_graph(saved.meta)
    subject.forward("batch")(saved.images)
    subject.forward("moving")(saved.images)
    assert not target.exists()


def test_a_variable_that_would_change_is_refused(tmp_path):
    def build():
        counter = v1.get_variable("counter", [], initializer=v1.zeros_initializer(), trainable=False)
        return network(between=lambda h: h + v1.assign_add(counter, 1.0))

    refused(
        save(tmp_path, build, v2=False, run=False).meta,
        r"changes a variable on the way to the logits, in its node 'AssignAdd'",
    )


def calling(meta, *calls):
    """Functions `f0`, `f1`, ..., each of which calls those that `calls` lists for it; the first Relu becomes f0."""
    for index, called in enumerate(calls):
        function = meta.graph_def.library.function.add()
        function.signature.name = f"f{index}"
        function.signature.input_arg.add(name="x", type=1)
        function.signature.output_arg.add(name="y", type=1)
        for place, name in enumerate(called):
            call = function.node_def.add(name=f"call{place}", op="PartitionedCall", input=["x"])
            call.attr["f"].func.name = name
            call.attr["Tin"].list.type.append(1)
            call.attr["Tout"].list.type.append(1)
            function.control_ret[f"call{place}"] = f"call{place}"
        function.ret["y"] = "call0:output:0"
    node = next(node for node in meta.graph_def.node if node.op == "Relu")
    node.op = "PartitionedCall"
    node.attr["f"].func.name = "f0"
    for types in ("Tin", "Tout"):
        node.attr[types].list.type.append(1)


def test_functions_without_end_are_refused(plain):
    refused(edited(plain, lambda meta: calling(meta, ["f1"], ["f0"])), "function f[01] calls itself")
    doubling = [[f"f{index}"] * 8 for index in range(1, 12)]
    refused(
        edited(plain, lambda meta: calling(meta, *doubling, [])),
        "more than 300,000 nodes, counting what its functions call",
    )


def test_damaged_files_are_said_to_be(plain, tmp_path):
    content = plain.meta.read_bytes()
    for name, written, message in (
        ("cut.meta", content[: len(content) // 2], "is not a meta graph, or was cut off"),
        ("text.meta", b"hello", "is not a meta graph"),
        ("empty.meta", b"", "holds no graph"),
    ):
        (tmp_path / name).write_bytes(written)
        refused(tmp_path / name, f"{name} {message}", checkpoint=plain.meta.with_suffix(""))

    def lost(meta):
        del meta.graph_def.node[3]

    def twice(meta):
        meta.graph_def.node.append(meta.graph_def.node[3])

    def circle(meta):
        node = next(node for node in meta.graph_def.node if node.op == "Relu")
        node.input[0] = "Relu"

    refused(edited(plain, lost), "is damaged: its node '.*' reads '.*', which is not there")
    refused(edited(plain, twice), "is damaged: it has two nodes called")
    refused(edited(plain, circle), "is damaged: its node 'Relu' waits for itself")


def test_a_text_meta_is_read(plain):
    from google.protobuf import text_format

    meta = v1.MetaGraphDef()
    meta.ParseFromString(plain.meta.read_bytes())
    path = plain.meta.with_name("text.meta")
    path.write_text(text_format.MessageToString(meta))
    assert open_graph(path, checkpoint=plain.meta.with_suffix("")).outputs == 3


def test_missing_and_foreign_checkpoints(plain, tmp_path):
    refused(tmp_path / "model.ckpt", r"there is no graph .*model.ckpt: expected the .meta file")
    shutil.copy(plain.meta, tmp_path / "alone.meta")
    refused(tmp_path / "alone.meta", "there is no checkpoint .*alone", CheckpointError)
    (tmp_path / "other").mkdir()
    (tmp_path / "wider").mkdir()
    other = save(tmp_path / "other", lambda: other_network(3), run=False)
    wider = save(tmp_path / "wider", lambda: network_of(5), run=False)
    refused(
        plain.meta,
        "does not hold .*kernel.* it is not the checkpoint of this graph",
        checkpoint=other.meta.with_suffix(""),
    )
    refused(
        plain.meta,
        r"weights is \[6, 5\] in .*, but \[6, 3\] in the graph: .*another number of classes",
        checkpoint=wider.meta.with_suffix(""),
    )
    refused(plain.meta, "holds no averages of weights", use_averages=True)


def network_of(classes):
    x, training = images(), switch()
    h = tf.nn.relu(fused(conv(x, "a"), training, "a"))
    logits, _ = head(tf.nn.relu(fused(conv(h, "b"), training, "b")), classes)
    return Form(x, logits, {training: True}, {training: False})


def other_network(classes):
    with v1.variable_scope("other"):
        return network_of(classes)


def without_switch():
    x = images()
    h = conv(x, "a")
    mean, variance = tf.nn.moments(h, [0, 1, 2])
    logits, _ = head(tf.nn.relu(tf.nn.batch_normalization(h, mean, variance, None, None, 1e-3)))
    return Form(x, logits, {}, {})


def two_heads():
    x, training = images(), switch()
    h = tf.nn.relu(fused(conv(x, "a"), training, "a"))
    with v1.variable_scope("one"):
        logits, _ = head(h)
    with v1.variable_scope("two"):
        head(h)
    return Form(x, logits, {training: True}, {training: False})


def two_images():
    x = images()
    made = network(x=x + v1.placeholder(tf.float32, [None, 16, 16, 3], "depth"))
    return Form(x, made.logits, made.true, made.false)


def two_switches():
    x, one, two = images(), switch("one"), switch("two")
    h = fused(conv(tf.nn.relu(fused(conv(x, "a"), one, "a")), "b"), two, "b")
    return Form(x, head(h)[0], {}, {})


def of_two_channels():
    x, training = images((None, 16, 16, 2)), switch()
    return Form(x, head(fused(conv(x, "a"), training, "a"))[0], {}, {})


def of_rows():
    x, training = v1.placeholder(tf.float32, [None, 768], "x"), switch()
    h = tf.reshape(x, [-1, 256, 3])[:, :, None]
    return Form(x, head(fused(conv(h, "a"), training, "a"))[0], {}, {})


def with_a_temperature():
    temperature = v1.placeholder(tf.float32, [], "temperature")
    return network(between=lambda h: h / temperature)


@pytest.mark.parametrize(
    ("build", "options", "error", "message"),
    [
        (without_switch, {}, FinetuneError, "no training switch.* moments of a batch alone .*: nothing in it ass"),
        (two_heads, {}, FinetuneError, r"2 tensors .*likeliest first: one/logits:0 \(float32 \[\?, 3\]\), two/"),
        (two_images, {}, FinetuneError, r"2 tensors that may be the images: .*depth:0 .*Choose one with --input"),
        (two_switches, {}, FinetuneError, "several tensors switch BatchNorm: one:0, two:0. Choose"),
        (of_two_channels, {}, FinetuneError, r"x:0 \(float32 \[\?, 16, 16, 2\]\) takes 2 channels, but images have 1"),
        (of_rows, {}, FinetuneError, r"the layout of the images in x:0 \(float32 \[\?, 768\]\): give --input-layout"),
        (of_rows, {"layout": "nhwc"}, WrongUse, "--input-layout nhwc has 4 axes, but the input"),
        (of_rows, {"layout": "chw"}, WrongUse, "--input-layout chw: expected one of nhwc, nchw"),
        (with_a_temperature, {"is_training": "temperature"}, FinetuneError, "switches no BatchNorm"),
        (with_a_temperature, {}, FinetuneError, r"depend on temperature:0 \(float32 \[\]\) .*--feed temperature=VALUE"),
        (with_a_temperature, {"feeds": ["temperature"]}, WrongUse, "expected NAME=VALUE"),
        (with_a_temperature, {"feeds": ["temperature=warm"]}, WrongUse, "expected a value of type float32"),
        (with_a_temperature, {"feeds": ["logits=1"]}, WrongUse, "is no placeholder"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_asked_for(tmp_path, build, options, error, message):
    refused(save(tmp_path, build, run=False).meta, message, error, **options)


@pytest.mark.slow
def test_what_was_asked_for_settles_it(tmp_path):
    """The same graphs, with the option that the message names."""
    for build, options in (
        (two_heads, {"logits": "two/logits"}),
        (two_switches, {"is_training": "one", "feeds": ["two=false"]}),
        (of_rows, {"layout": "flat-nhwc"}),
        (with_a_temperature, {"feeds": ["temperature=2"]}),
    ):
        folder = tmp_path / build.__name__
        folder.mkdir()
        saved = save(folder, build, run=False)
        subject = open_graph(saved.meta, **options)
        assert subject.forward("batch")(saved.images)[0].shape == (8, 3)
        assert any("as given" in line or "flat-nhwc" in line for line in subject.facts.lines)


def spoil(meta, rng):
    """Something changed at random in a graph, as a damaged or a hostile file may have it."""
    nodes = [node for node in meta.graph_def.node if not node.name.startswith("save")]
    nodes += [node for function in meta.graph_def.library.function for node in function.node_def]
    node, other = (nodes[rng.integers(len(nodes))] for _ in range(2))
    kind = rng.integers(6)
    if kind == 0 and node.input:
        del node.input[rng.integers(len(node.input))]
    elif kind == 1 and node.input:
        node.input[rng.integers(len(node.input))] = other.name + ("", ":1", ":99999999999")[rng.integers(3)]
    elif kind == 2:
        node.op = other.op
    elif kind == 3 and node.attr:
        del node.attr[sorted(node.attr)[rng.integers(len(node.attr))]]
    elif kind == 4 and node.attr and other.attr:
        key = sorted(node.attr)[rng.integers(len(node.attr))]
        node.attr[key].CopyFrom(other.attr[sorted(other.attr)[rng.integers(len(other.attr))]])
    else:
        node.attr["T"].type = (1, 10, 20, 999)[rng.integers(4)]


@pytest.mark.slow
@pytest.mark.parametrize("v2", [True, False])
def test_whatever_is_in_the_file_there_is_one_message(tmp_path, v2):
    saved = save(tmp_path, network, v2=v2, run=False)
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(30):
        path = edited(saved, lambda meta: spoil(meta, rng))
        try:
            open_graph(path, checkpoint=saved.meta.with_suffix("")).forward("batch")(saved.images)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 5
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("mode", ["a switch", True, False])
def test_batch_renormalisation_is_refused_as_such_but_in_a_graph_for_tests(tmp_path, mode):
    def build():
        x, training = images(), switch() if mode == "a switch" else mode
        h = normalization.batch_normalization(conv(x, "a"), training=training, renorm=True)
        logits, _ = head(tf.nn.relu(h))
        return Form(x, logits, {}, {})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what TensorFlow deprecates
        saved = save(tmp_path, build, run=mode is False)
    if mode is False:
        logits, _ = open_graph(saved.meta).forward("moving")(saved.images)
        np.testing.assert_allclose(logits, saved.false, atol=1e-5)
    else:
        refused(saved.meta, r"batch renormalisation \(renorm=True, by its variable batch_normalization/renorm_mean\)")


def test_a_graph_without_a_checkpoint_is_called_what_it_is(plain, tmp_path):
    """A frozen graph has constants for variables; the graph.pbtxt of a training directory has none at all."""
    meta = v1.MetaGraphDef()
    meta.ParseFromString(plain.meta.read_bytes())
    (tmp_path / "graph.pbtxt").write_text(text_format.MessageToString(meta.graph_def))
    frozen = v1.GraphDef()
    frozen.node.add(name="w", op="Const")
    tf.io.write_graph(frozen, str(tmp_path), "frozen.pb", as_text=False)
    refused(tmp_path / "graph.pbtxt", "is a TF1 graph without its weights: give the .meta file")
    refused(tmp_path / "frozen.pb", "is a frozen TF1 graph: .* can neither be recalibrated nor trained; give what it")
