"""Who the workers are, how they meet, how batches are shared, and what replicas of one process compute."""

import json
import os
import socket
import threading

import numpy as np
import pytest

from finetune.data import pipeline
from finetune.data.augmentation import Augmentation
from finetune.data.dataset import Share, Split
from finetune.data.preprocessing import find_preprocessing
from finetune.errors import FinetuneError, WrongUse
from finetune.training.distribution import cluster as clusters
from finetune.training.distribution.connection import meet
from finetune.training.distribution.strategy import ALONE, Distribution
from tests.support.warm_process import WarmProcess

TWO = {"worker": ["a:2222", "b:2222"]}


def tf_config(cluster=TWO, task=None):
    return json.dumps({"cluster": cluster, "task": task or {"type": "worker", "index": 1}})


def test_tf_config_says_who_this_process_is():
    own = clusters.parse(tf_config())
    assert (own.rank, own.own, own.addresses) == (1, "b:2222", ("a:2222", "b:2222"))
    with_chief = clusters.parse(tf_config({"worker": ["b:1", "[::1]:2"], "chief": ["a:1"]}))
    assert (with_chief.rank, with_chief.own, with_chief.named(0)) == (2, "[::1]:2", "worker 0 (a:1)")
    assert clusters.split("[::1]:2") == ("::1", 2)
    assert clusters.parse(tf_config(task={"type": "worker", "index": "0"})).rank == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "has no 'cluster'"),
        ('{"cluster": {}}', "names no worker"),
        ('{"cluster": {"worker": "a:1"}}', "has no list of 'host:port' for 'worker'"),
        ('{"cluster": {"worker": ["a"]}}', "has 'a' for 'worker', expected 'host:port'"),
        ('{"cluster": {"worker": ["a:70000"]}}', "has 'a:70000' for 'worker'"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}}', "names a:1 twice"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', "has a job 'ps'"),
        ('{"cluster": {"worker": ["a:1"]}}', "has no 'task'"),
        (tf_config(task={"type": "chief", "index": 0}), "says its task is of type 'chief'"),
        (tf_config(task={"type": "worker", "index": 2}), "has the index 2, expected 0 to 1"),
        (tf_config(task={"type": "worker", "index": True}), "has the index True"),
    ],
)
def test_a_malformed_tf_config_is_one_error_with_an_example(text, words):
    with pytest.raises(WrongUse) as caught:
        clusters.from_environment({"TF_CONFIG": text})
    assert words in str(caught.value)
    assert clusters.EXAMPLE in str(caught.value)


def test_no_cluster_is_said_with_an_example():
    with pytest.raises(WrongUse, match="TF_CONFIG is not set") as caught:
        clusters.from_environment({})
    assert clusters.EXAMPLE in str(caught.value)
    with pytest.raises(WrongUse, match="start it with 'srun"):
        clusters.from_environment({"SLURM_JOB_ID": "7"})


@pytest.fixture
def slurm(monkeypatch):
    """The environment of one task of `srun`, as Slurm sets it."""

    def step(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}" if name != "SLURMD_NODENAME" else name, value)
        return clusters.from_environment({k: v for k, v in os.environ.items() if k != "TF_CONFIG"})

    return step


def test_a_slurm_step_is_a_cluster(slurm):
    own = slurm(
        JOB_ID="17",
        PROCID="2",
        STEP_NUM_TASKS="3",
        STEP_NODELIST="n[1-2]",
        STEP_TASKS_PER_NODE="2,1",
        SLURMD_NODENAME="n2",
    )
    assert own.addresses == ("n1:20017", "n1:20018", "n2:20017")
    assert own.rank == 2


def test_slurm_nodes_that_do_not_sort_are_refused(slurm):
    with pytest.raises(WrongUse, match="runs task 0 on n9, where TensorFlow's resolver expects n10"):
        slurm(
            JOB_ID="17",
            PROCID="0",
            STEP_NUM_TASKS="2",
            STEP_NODELIST="n9,n10",
            STEP_TASKS_PER_NODE="1(x2)",
            SLURMD_NODENAME="n9",
        )


def both(chief_offer, other_offer, *, other_rank=1, workers=2):
    """What the two get from meeting: an offer, or the error."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        addresses = [f"127.0.0.1:{one.getsockname()[1]}", f"127.0.0.1:{two.getsockname()[1]}"][:workers]
    found = {}

    def come(rank, offer):
        own = clusters.parse(tf_config({"worker": addresses}, {"type": "worker", "index": rank}))
        try:
            found[rank] = meet(own, offer, lambda text: None)
        except FinetuneError as error:
            found[rank] = str(error)

    threads = [threading.Thread(target=come, args=pair) for pair in ((0, chief_offer), (other_rank, other_offer))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def offer(**changed):
    return {"command": "run", "version": "1", "gpus": 0, "settings": {"seed": 0, "data_dir": "/a"}} | changed


def test_workers_agree_on_the_chiefs_settings(monkeypatch):
    monkeypatch.setenv("FINETUNE_WAIT", "20")
    found = both(offer(), offer(settings={"seed": 0, "data_dir": "/b"}))
    assert found == {0: offer(), 1: offer()}
    assert both(offer(), offer(settings=None)) == {0: offer(), 1: offer()}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"settings": {"seed": 1}}, "--seed is 1 there and 0 here"),
        ({"version": "2"}, "the programs differ, 2 there and 1 here"),
        ({"gpus": 4}, "the numbers of GPUs differ, 4 there and 0 here"),
        ({"command": "run --resume"}, "the commands differ"),
    ],
)
def test_workers_that_disagree_hear_why(monkeypatch, changed, words):
    monkeypatch.setenv("FINETUNE_WAIT", "20")
    found = both(offer(), offer(**changed))
    assert found[0] == found[1]
    assert words in found[0]


def test_a_worker_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setenv("FINETUNE_WAIT", "0.7")
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    for index, words in (
        (0, "worker 1 (localhost:1) did not come within 0.7 s"),
        (1, "worker 0 (localhost:1) was not"),
    ):
        addresses = [f"127.0.0.1:{port}", "localhost:1"][:: -1 if index else 1]
        own = clusters.parse(tf_config({"worker": addresses}, {"type": "worker", "index": index}))
        with pytest.raises(FinetuneError, match="start the same command there") as caught:
            meet(own, offer(), lambda text: None)
        assert words in str(caught.value)


def test_a_port_in_use_is_named(monkeypatch):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        own = clusters.parse(tf_config({"worker": [f"a:{port}", "b:1"]}, {"type": "worker", "index": 0}))
        with pytest.raises(FinetuneError, match=rf"port {port} of worker 0 \(a:{port}\) cannot be opened"):
            meet(own, offer(), lambda text: None)
    monkeypatch.setenv("FINETUNE_WAIT", "soon")
    with pytest.raises(WrongUse, match="FINETUNE_WAIT is 'soon'"):
        meet(own, offer(), lambda text: None)


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(3)
    return Split(rng.integers(0, 256, (26, 8, 8, 3), np.uint8), np.arange(26) % 3)


@pytest.mark.parametrize("augmentation", [Augmentation(2, True), Augmentation(0, True, resized_crop=True)])
def test_the_workers_shares_are_the_batches_of_one(split, augmentation):
    form = {"batch_size": 12, "image_size": 8, "preprocessing": find_preprocessing("unit")}
    epoch = pipeline.Epoch(5, 1, augmentation)
    whole = list(pipeline.train_batches(split, epoch, **form))
    parts = [list(pipeline.train_batches(split, epoch, **form, share=Share(rank, 3))) for rank in range(3)]
    assert len(whole) == 2
    for number, (images, labels) in enumerate(whole):
        np.testing.assert_array_equal(images, np.concatenate([part[number][0] for part in parts]))
        np.testing.assert_array_equal(labels, np.concatenate([part[number][1] for part in parts]))


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_every_image_is_evaluated_by_one_worker(split, workers):
    form = {"batch_size": 8, "image_size": 8, "preprocessing": find_preprocessing("unit")}
    whole = [tuple(map(np.array, batch)) for batch in pipeline.eval_batches(split, **form)]
    parts = [list(pipeline.eval_batches(split, **form, share=Share(rank, workers))) for rank in range(workers)]
    assert sum(int(np.sum(counted)) for part in parts for _, _, counted in part) == len(split)
    for number, batch in enumerate(whole):  # whole batches: what batch statistics are taken over does not change
        other = parts[number % workers][number // workers]
        for mine, theirs in zip(batch, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_batch_that_does_not_divide_is_refused():
    three = Distribution()
    three.replicas = 3
    three.check_batch(1000, 66)
    with pytest.raises(WrongUse, match=r"--batch-size 64 is not divisible by the 3 replicas.*--batch-size 63"):
        three.check_batch(1000, 64)
    with pytest.raises(WrongUse, match=r"the 50 training images, one batch, are not divisible.*--batch-size 48"):
        three.check_batch(50, 66)
    ALONE.check_batch(7, 64)


# In a process of its own: logical devices have to be made before TensorFlow computes anything.
MIRRORED = """
import dataclasses, sys
import numpy as np, keras, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from finetune.batchnorm.layer import BatchNorm
from finetune.batchnorm.surgery import bn_layers
from finetune.training.distribution.connection import mirrored
from finetune.training.distribution.strategy import ALONE
from finetune.training.loop.train import ImageFeed, train
from tests.unit.training.loop import test_train as test_loop

two = mirrored(print)
assert two.replicas == two.local_replicas == 2
rng = np.random.default_rng(0)
x = rng.normal(size=(8, 5, 5, 3)).astype(np.float32) * 2 + 40
x[4:] += 9  # the two shares lie far apart
direction = rng.normal(size=x.shape).astype(np.float32)
found = {"x": x}

def layer_on(on, sync, **options):
    with on.scope():
        layer = BatchNorm(momentum=0.9, epsilon=1e-3, unbiased=True, **options)
        layer.build(x.shape)
        layer.gamma.assign([0.5, 1.0, 2.0]), layer.beta.assign([0.1, 0.2, 0.3])
        if layer.local_step is not None:  # with the limits of r and d wide open
            layer.local_step.assign(5), layer.moving_mean.assign([38.0] * 3), layer.moving_variance.assign([9.0] * 3)
    layer.across_replicas = sync
    @tf.function
    def step(x, direction):
        def replica(x, direction):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
                loss = tf.reduce_sum(y * direction)
            dx, *rest = tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])
            whole = tf.concat([x, y, dx], axis=-1)
            context = tf.distribute.get_replica_context()
            if context.num_replicas_in_sync > 1:
                row = tf.one_hot(context.replica_id_in_sync_group, 2)[:, None, None, None, None]
                whole = tf.reshape(on.all_sum(row * whole), [8, 5, 5, 9])
            return whole, on.all_sum(rest)
        return on.on_replicas(replica, x, direction)
    whole, rest = step(tf.constant(x), tf.constant(direction))
    _, y, dx = np.split(whole.numpy(), 3, axis=-1)
    return {"y": y, "dx": dx, "dgamma": rest[0].numpy(), "dbeta": rest[1].numpy(),
            "mean": layer.moving_mean.numpy(), "variance": layer.moving_variance.numpy()}

for name, options in {"": {}, "renorm_": {"renormalise": True, "run_steps": 1}}.items():
    for key, on, sync in (("one", ALONE, False), ("sync", two, True), ("own", two, False)):
        for part, value in layer_on(on, sync, **options).items():
            found[f"{name}{key}/{part}"] = value

config = dataclasses.replace(test_loop.CONFIG, dropout=0.0, clip_norm=0.2, optimizer="sgd", weight_decay=5e-4)
for key, on in (("one", ALONE), ("two", two)):
    with on.scope():
        model = test_loop.classifier(config)
    for layer in bn_layers(model):
        layer.across_replicas = True
    history = train(ImageFeed(model, test_loop.dataset(), config), config, test_loop.Listener(), distribution=on)
    found[f"train/{key}/loss"] = [(row["train_loss"], row["validation_loss"], row["train_accuracy"]) for row in history]
    for number, variable in enumerate(model.variables):
        found[f"train/{key}/{number}"] = variable.numpy()

with two.scope():
    dropped = keras.layers.Dropout(0.5, seed=1)
    model = keras.Sequential([keras.Input((64,)), dropped])
two.part_seeds(model)
@tf.function
def masks():
    def replica(x):
        context = tf.distribute.get_replica_context()
        return two.all_sum(tf.one_hot(context.replica_id_in_sync_group, 2)[:, None] * model(x, training=True))
    return two.on_replicas(replica, tf.ones([2, 64]))
found["masks"] = np.stack([masks().numpy() for _ in range(2)])
np.savez(sys.argv[1], **found)
"""


@pytest.fixture(scope="module")
def mirrored_values(tmp_path_factory):
    """What one replica and two compute of the same."""
    path = tmp_path_factory.mktemp("mirrored") / "values.npz"
    done = WarmProcess(MIRRORED, str(path), environment={"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"})
    _, stderr = done.communicate(timeout=300)
    assert done.returncode == 0, stderr[-3000:]
    return dict(np.load(path))


@pytest.mark.parametrize("kind", ["", "renorm_"])
@pytest.mark.parametrize("part", ["y", "dx", "dgamma", "dbeta", "mean", "variance"])
def test_synchronised_replicas_normalise_by_the_whole_batch(mirrored_values, kind, part):
    one, two = mirrored_values[f"{kind}one/{part}"], mirrored_values[f"{kind}sync/{part}"]
    np.testing.assert_allclose(two, one, rtol=2e-4, atol=2e-4 * np.abs(one).max())


def test_synchronised_statistics_are_those_of_numpy(mirrored_values):
    x = mirrored_values["x"].astype(np.float64)
    np.testing.assert_allclose(mirrored_values["sync/mean"], 0.1 * x.mean(axis=(0, 1, 2)), rtol=1e-6)
    expected = 0.9 + 0.1 * x.var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(mirrored_values["sync/variance"], expected, rtol=1e-6)


def test_without_synchronisation_each_share_is_normalised_and_statistics_are_the_mean(mirrored_values):
    shares = np.split(mirrored_values["x"].astype(np.float64), 2)
    means, variances = (
        [f(share) for share in shares] for f in (lambda s: s.mean((0, 1, 2)), lambda s: s.var((0, 1, 2)))
    )
    expected = [
        (share - mean) / np.sqrt(variance + 1e-3) * [0.5, 1.0, 2.0] + [0.1, 0.2, 0.3]
        for share, mean, variance in zip(shares, means, variances, strict=True)
    ]
    np.testing.assert_allclose(mirrored_values["own/y"], np.concatenate(expected), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(mirrored_values["own/mean"], 0.1 * np.mean(means, axis=0), rtol=1e-6)
    fed = np.mean(variances, axis=0) * 100 / 99  # each of 4 x 5 x 5 values
    np.testing.assert_allclose(mirrored_values["own/variance"], 0.9 + 0.1 * fed, rtol=1e-6)


def test_two_replicas_train_what_one_does(mirrored_values):
    names = [name.removeprefix("train/one/") for name in mirrored_values if name.startswith("train/one/")]
    assert len(names) > 8
    for name in names:
        one, two = (mirrored_values[f"train/{key}/{name}"] for key in ("one", "two"))
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5, err_msg=name)


def test_replicas_drop_other_features(mirrored_values):
    first, second = mirrored_values["masks"] > 0
    for mask in (first, second):
        assert 0.2 < mask.mean() < 0.8
        assert (mask[0] != mask[1]).mean() > 0.25
    assert (first != second).mean() > 0.25
