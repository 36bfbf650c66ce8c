"""A small pretrained-looking classifier on generated images, and everything a run would do with its features."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from finetune.backbone import freezing
from finetune.backbone.head import attach_head
from finetune.batchnorm.policy import parse_bn_rule
from finetune.batchnorm.surgery import adopt
from finetune.config import RunConfig
from finetune.data.dataset import Dataset, Split
from finetune.training.feature_cache.extraction import Progress
from finetune.training.feature_cache.preparing import cached_feed
from finetune.training.loop.train import ImageFeed, train

CONFIG = RunConfig(
    backbone="x",
    image_size=16,
    preprocess="unit",
    augment="none",
    crop_padding=1,
    epochs=3,
    batch_size=16,
    learning_rate=0.05,
    weight_decay=0.01,
    bn_decay=0.9,
    dropout=0.1,
    hidden=16,
    cache_features="on",
)
HEAD_ONLY = ("*",)


def generated(seed: int = 0, count: int = 150) -> Dataset:
    """Three classes of 8 px images; 100 training, 20 validation and 30 test images, which fill no whole batches."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = (rng.integers(0, 120, (count, 8, 8, 3)) + labels[:, None, None, None] * 40).astype(np.uint8)
    split = Split(images, labels)
    parts = (np.arange(count - 50), np.arange(count - 50, count - 30), np.arange(count - 30, count))
    train_split, validation, test = (split.take(part) for part in parts)
    return Dataset("generated", ("a", "b", "c"), train_split, validation, test, "generated")


def classifier(
    config: RunConfig = CONFIG, *, freeze: tuple[str, ...] = HEAD_ONLY, bn: tuple[str, ...] = (), seed: int = 0
) -> keras.Model:
    """Two blocks, the second with a shortcut; random weights and moving statistics, planned as the rules say."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(12, 3, strides=2, name="conv1")(inputs)
    x = shortcut = keras.layers.ReLU()(keras.layers.BatchNormalization(name="bn1")(x))
    x = keras.layers.Conv2D(12, 3, padding="same", name="conv2")(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="bn2")(x))
    x = keras.layers.add([x, shortcut])
    x = keras.layers.Conv2D(24, 3, padding="same", name="conv3")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(keras.layers.BatchNormalization(name="bn3")(x)))
    model = attach_head(adopt(keras.Model(inputs, x), unbiased=True), 3, dropout=config.dropout, hidden=config.hidden)
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "moving" in variable.path:
            variable.assign(rng.uniform(-0.2, 0.2, variable.shape) + ("variance" in variable.path) * 0.4)
    stages = {f"block{n}": [f"conv{n}", f"bn{n}"] for n in (1, 2, 3)}
    plan = freezing.resolve(
        freezing.layer_infos(model, stages, ""),
        freeze=[freezing.parse_freeze_rule(rule) for rule in freeze],
        bn=[parse_bn_rule(rule) for rule in bn],
    )
    freezing.apply(model, plan, decay=0.9, updates=True)
    return model


class Listener:
    """Keeps what the loop says; stops after `stop_at` steps."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.losses, self.state = stop_at, [], None

    def on_step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        self.losses.append(loss)

    def on_epoch(self, history: list[dict[str, Any]]) -> None:
        pass

    def save(self, state: Any) -> None:
        self.state = state

    def stop_requested(self) -> bool:
        return self.stop_at is not None and len(self.losses) >= self.stop_at


@dataclasses.dataclass
class Outcome:
    """What a training gave, and what was said and done on the way."""

    weights: list[np.ndarray]
    history: list[dict[str, Any]]
    losses: list[float]
    test: dict[str, Any]
    said: list[str]
    about: dict[str, Any] | None


def trained(
    model: keras.Model,
    dataset: Dataset,
    config: RunConfig,
    *,
    listener: Listener | None = None,
    resume_from: Any = None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train and score as a run does, with features where there can be some."""
    listener, said = listener or Listener(), []
    with cached_feed(
        model, dataset, config, Progress(said.append, lambda done, total: None, stop, said.append)
    ) as cached:
        feed, about = cached or (ImageFeed(model, dataset, config), None)
        history = train(feed, config, listener, resume_from=resume_from)
        scorings = ((mode, *feed.scoring("test", mode)) for mode in ("moving", "batch"))
        test = {mode: evaluator.evaluate(images, mode) for mode, evaluator, images in scorings}
    weights = [np.array(variable) for variable in model.variables]
    return Outcome(weights, history, listener.losses, test, said, about)
