"""How batches are shared among workers, and what replicas of one process compute."""

import numpy as np
import pytest

from finetune.data import pipeline
from finetune.data.augmentation import Augmentation
from finetune.data.dataset import Share, Split
from finetune.data.preprocessing import find_preprocessing
from finetune.errors import WrongUse
from finetune.training.distribution.strategy import ALONE, Distribution
from tests.support.warm_process import WarmProcess


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(3)
    return Split(rng.integers(0, 256, (26, 8, 8, 3), np.uint8), np.arange(26) % 3)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.quick_cases(2)
@pytest.mark.parametrize("kind", ["", "renorm_"])
@pytest.mark.parametrize("part", ["y", "dx", "dgamma", "dbeta", "mean", "variance"])
def test_synchronised_replicas_normalise_by_the_whole_batch(mirrored_values, kind, part):
    one, two = mirrored_values[f"{kind}one/{part}"], mirrored_values[f"{kind}sync/{part}"]
    np.testing.assert_allclose(two, one, rtol=2e-4, atol=2e-4 * np.abs(one).max())


@pytest.mark.slow
def test_synchronised_statistics_are_those_of_numpy(mirrored_values):
    x = mirrored_values["x"].astype(np.float64)
    np.testing.assert_allclose(mirrored_values["sync/mean"], 0.1 * x.mean(axis=(0, 1, 2)), rtol=1e-6)
    expected = 0.9 + 0.1 * x.var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(mirrored_values["sync/variance"], expected, rtol=1e-6)


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_replicas_train_what_one_does(mirrored_values):
    names = [name.removeprefix("train/one/") for name in mirrored_values if name.startswith("train/one/")]
    assert len(names) > 8
    for name in names:
        one, two = (mirrored_values[f"train/{key}/{name}"] for key in ("one", "two"))
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_replicas_drop_other_features(mirrored_values):
    first, second = mirrored_values["masks"] > 0
    for mask in (first, second):
        assert 0.2 < mask.mean() < 0.8
        assert (mask[0] != mask[1]).mean() > 0.25
    assert (first != second).mean() > 0.25
