"""Decide whether the output of a run's frozen layers is computed once an image, and prepare it."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from finetune.batchnorm.subject import Statistics
from finetune.batchnorm.surgery import bn_layers
from finetune.batchnorm.surgery import parts as parts_of
from finetune.config import RunConfig
from finetune.data import batches, pipeline
from finetune.data.augmentation import Augmentation
from finetune.data.dataset import Dataset
from finetune.data.preprocessing import CustomPreprocessing
from finetune.errors import FinetuneError, WrongUse
from finetune.text import size_in_bytes, size_in_words
from finetune.training.feature_cache import feature_store, keys
from finetune.training.feature_cache.cut import Cut, cuts
from finetune.training.feature_cache.entry import Entry
from finetune.training.feature_cache.extraction import DoesNotKeep, Network, Part, Watch, fill
from finetune.training.feature_cache.feature_feed import CachedFeed, Table

_LEAST = 50
"""Multiplications that must be saved for each byte read instead. Two cores do 50 in a nanosecond, and a disk reads a
byte in about one: below this, reading takes longer than computing."""
_IN_MEMORY = 2**30
"""Largest size in bytes of features kept in memory, and at most a quarter of what is available. Larger ones are read
from the disk batch by batch, through the system's cache."""


@dataclass(frozen=True)
class Progress:
    """Callbacks of the work.

    say: a sentence. progress: images done, and of all. stop: whether to stop. warn: a sentence about damage.
    """

    say: Callable[[str], None]
    progress: Callable[[int, int], None]
    stop: Callable[[], bool]
    warn: Callable[[str], None] | None = None


class NotCached(Exception):
    """Features are not cached. The message says why."""


class NothingFrozen(NotCached):
    """Nothing is frozen, so nothing is reported."""


@contextmanager
def cached_feed(
    model: keras.Model, dataset: Dataset, config: RunConfig, progress: Progress, *, not_for: str | None = None
) -> Iterator[tuple[CachedFeed, dict[str, Any]] | None]:
    """(feed of features, `cached_features` of `result.json`) for a planned `model` whose frozen weights are final.

    None where features are not cached; the reason has been reported. `not_for`: a reason the caller knows.
    The entries are held until the block ends, so that no process removes them. Raises WrongUse with
    `--cache-features on` where features cannot be cached, OSError where they cannot be written, and Interrupted where
    `progress` says to stop.
    """
    with ExitStack() as held:
        found = None
        if config.cache_features != "off":
            try:
                found = _Preparation(model, dataset, config, progress, held).feed(not_for)
            except NotCached as reason:
                if config.cache_features == "on":
                    raise WrongUse(f"--cache-features on: {reason}") from None
                if not isinstance(reason, NothingFrozen):
                    progress.say(f"features are not cached: {reason}")
        yield found


class _Preparation:
    """Finds the cut, opens the entries it needs and fills them."""

    def __init__(
        self, model: keras.Model, dataset: Dataset, config: RunConfig, progress: Progress, held: ExitStack
    ) -> None:
        self._model, self._dataset, self._config = model, dataset, config
        self._progress, self._held = progress, held
        self._form = batches.form(config)
        self._budget = size_in_bytes(config.cache_budget) if config.cache_budget is not None else None
        named = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        self._splits = {name: split.at(self._form["image_size"]) for name, split in named.items() if split is not None}

    def feed(self, not_for: str | None) -> tuple[CachedFeed, dict[str, Any]]:
        """Raises NotCached."""
        started = time.monotonic()
        try:
            candidates = cuts(self._model)
        except FinetuneError as reason:
            frozen = any(not part.trainable for part in parts_of(self._model) if part.weights)
            raise (NotCached if frozen else NothingFrozen)(str(reason)) from None
        if not_for:
            raise NotCached(not_for)
        mirrored = _views(self._config)
        if isinstance(self._form["preprocessing"], CustomPreprocessing) and self._config.cache_features == "auto":
            raise NotCached(
                f"--preprocess {self._config.preprocess} is your own code, which may give an image other pixels each "
                "time; give --cache-features on where it does not"
            )
        ids = {name: keys.of_images(split) for name, split in self._splits.items()}
        if mirrored:
            ids["mirrored"] = keys.of_mirrored(ids["train"])
        first: NotCached | None = None
        for cut in candidates:
            try:
                return self._at(cut, ids, started)
            except NotCached as reason:
                first = first or reason
        assert first is not None
        raise first

    def _at(self, cut: Cut, ids: dict[str, np.ndarray], started: float) -> tuple[CachedFeed, dict[str, Any]]:
        if self._config.cache_features == "auto" and cut.multiplications < _LEAST * 4 * cut.values:
            raise NotCached(
                f"the frozen layers, up to {cut.layer}, are little work for the {cut.values:,} numbers they give for "
                "an image: reading them would take as long"
            )
        below, above = cut.halves(self._model)
        network = keys.of_network(below)
        parts = [
            Part(
                names,
                self._splits["train" if name == "mirrored" else name].images,
                np.arange(len(names)),
                mirrored=name == "mirrored",
            )
            for name, names in ids.items()
        ]
        entry, computed = self._filled(cut, network, below, "moving", parts)
        rows = {name: entry.find(names) for name, names in ids.items()}
        measured = self._measured(cut, network, below, ids["test"])
        total = (sum(map(len, rows.values())) + (len(measured[1]) if measured else 0)) * entry.row_bytes
        in_memory = total <= min(_IN_MEMORY, _available() // 4)
        tables = {name: Table(entry, one, in_memory=in_memory) for name, one in rows.items()}
        seconds = time.monotonic() - started
        by_batch = tables["test"]
        if measured:
            computed += measured[2]
            by_batch = Table(measured[0], measured[1], in_memory=in_memory)
        feed = CachedFeed(
            self._model,
            above,
            self._config,
            self._dataset,
            views=[tables[name] for name in ("train", "mirrored") if name in tables],
            tables=tables,
            measured=by_batch if measured or not bn_layers(below) else None,
            multiplications=cut.above,
        )
        read = total // entry.row_bytes - computed
        self._progress.say(
            f"features: everything up to {cut.layer} is frozen: {computed:,} images computed, {read:,} read "
            f"from the cache, {size_in_words(total)}, {seconds:.1f} s"
        )
        return feed, {
            "cut": cut.layer,
            "shape": list(cut.shape),
            "precision": self._config.cache_precision,
            "key": entry.path.name,
            "computed": computed,
            "read": read,
            "bytes": total,
            "in_memory": in_memory,
            "seconds": round(seconds, 1),
        }

    def _measured(
        self, cut: Cut, network: str, below: keras.Model, test: np.ndarray
    ) -> tuple[Entry, np.ndarray, int] | None:
        """The test images' features under batch statistics: (entry, rows, computed).

        They depend on which images share a batch, so they are kept by their place in the evaluation's sequence of
        batches. None where no BatchNorm lies below the cut, or where they do not fit: the evaluation then uses the
        images."""
        if not bn_layers(below):
            return None
        size, starts = pipeline.eval_starts(len(test), self._form["batch_size"])
        places = keys.of_places(size * len(starts))
        sequence = hashlib.sha256(test.tobytes()).hexdigest()
        numbers = (starts[:, None] + np.arange(size)).reshape(-1)
        part = Part(places, self._splits["test"].images, numbers, together=size)
        try:
            entry, computed = self._filled(cut, network, below, "batch", [part], batch_size=size, sequence=sequence)
        except NotCached as reason:
            self._progress.say(f"features under batch statistics are not cached: {reason}")
            return None
        return entry, entry.find(places), computed

    def _filled(
        self, cut: Cut, network: str, below: keras.Model, statistics: Statistics, parts: list[Part], **more: Any
    ) -> tuple[Entry, int]:
        """(entry with a row for every image of `parts`, number of rows computed). Raises NotCached."""
        image_size, preprocessing = self._form["image_size"], self._form["preprocessing"]
        pixels = keys.of_pixels(self._dataset.train, image_size=image_size, preprocessing=preprocessing)
        about = {
            "shape": list(cut.shape),
            "dtype": self._config.cache_precision,
            "backbone": self._config.backbone,
            "cut": cut.layer,
            "data": self._dataset.name,
            "image_size": image_size,
            "preprocess": self._config.preprocess,
            "statistics": statistics,
        }
        key = keys.combined(
            network=network,
            pixels=pixels,
            shape=list(cut.shape),
            dtype=self._config.cache_precision,
            statistics=statistics,
            **more,
        )
        ids = np.concatenate([part.ids for part in parts])
        try:
            entry = self._held.enter_context(feature_store.opened(key, about, ids, budget=self._budget))
            watch = Watch(
                self._progress.progress, self._progress.stop, self._wait, self._progress.warn or self._progress.say
            )
            run = Network(below, statistics=statistics, image_size=image_size, preprocessing=preprocessing)
            return entry, fill(entry, run, parts, watch)
        except (feature_store.OverBudget, DoesNotKeep) as reason:
            raise NotCached(str(reason)) from None
        except OSError as error:
            if self._config.cache_features == "on":
                raise
            raise NotCached(
                f"{os.strerror(error.errno or 0)}: {error.filename or feature_store.cache_folder()}"
            ) from None

    def _wait(self, images: int) -> None:
        self._progress.say(f"features of the last {images:,} images are being computed by another process: waiting")


def _views(config: RunConfig) -> bool:
    """Whether training images are also mirrored. Raises NotCached where they are changed in other random ways."""
    augmentation = batches.augmentation(config)
    for mirrored in (False, True):
        if augmentation == Augmentation(crop_padding=0, flip=mirrored):
            return mirrored
    mixing = [name for name in ("rand_augment", "mixup", "cutmix") if getattr(config, name) is not None]
    how = f"--{mixing[0].replace('_', '-')}" if mixing else f"--augment {config.augment}"
    remedy = "without, they would be" if mixing else "with none, or flip, they would be"
    raise NotCached(f"training images are changed at random, {how}: {remedy}")


def _available() -> int:
    """Bytes of memory that are available; 4 GiB where the system does not report it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 2**32
