"""Decide whether the output of a run's frozen layers is computed once an image, and prepare it."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np

from finetune.batchnorm.subject import Statistics
from finetune.batchnorm.surgery import bn_layers
from finetune.batchnorm.surgery import parts as parts_of
from finetune.config import CHANGES, RunConfig
from finetune.data import batches, pipeline
from finetune.data.augmentation import Augmentation
from finetune.data.dataset import Dataset
from finetune.data.preprocessing import CustomPreprocessing
from finetune.errors import FinetuneError, WrongUse
from finetune.text import size_in_bytes, size_in_words
from finetune.training.feature_cache import feature_store, keys
from finetune.training.feature_cache.cut import Cut, cuts
from finetune.training.feature_cache.entry import Entry
from finetune.training.feature_cache.extraction import DoesNotKeep, Network, Part, Progress, fill
from finetune.training.feature_cache.feature_feed import CachedFeed, Table

_LEAST = 50
"""Multiplications that must be saved for each byte read instead. Two cores do 50 in a nanosecond, and a disk reads a
byte in about one: below this, reading takes longer than computing."""
_IN_MEMORY = 2**30
"""Largest size in bytes of features kept in memory, and at most a quarter of what is available. Larger ones are read
from the disk batch by batch, through the system's cache."""


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


@dataclass(frozen=True, eq=False)
class _Preparation:
    """Finds the cut, opens the entries it needs and fills them."""

    model: keras.Model
    dataset: Dataset
    config: RunConfig
    progress: Progress
    held: ExitStack

    @cached_property
    def _form(self) -> dict[str, Any]:
        return batches.form(self.config)

    @cached_property
    def _pixels(self) -> str:
        return keys.of_pixels(self.dataset.train, **self._pixel_form)

    @property
    def _pixel_form(self) -> dict[str, Any]:
        return {name: value for name, value in self._form.items() if name != "batch_size"}

    def feed(self, not_for: str | None) -> tuple[CachedFeed, dict[str, Any]]:
        """Raises NotCached."""
        started = time.monotonic()
        try:
            candidates = cuts(self.model)
        except FinetuneError as reason:
            frozen = any(not part.trainable for part in parts_of(self.model) if part.weights)
            raise (NotCached if frozen else NothingFrozen)(str(reason)) from None
        if not_for:
            raise NotCached(not_for)
        mirrored = _views(self.config)
        if isinstance(self._form["preprocessing"], CustomPreprocessing) and self.config.cache_features == "auto":
            raise NotCached(
                f"--preprocess {self.config.preprocess} is your own code, which may give an image other pixels each "
                "time; give --cache-features on where it does not"
            )
        named = {"train": self.dataset.train, "validation": self.dataset.validation, "test": self.dataset.test}
        size, geometry = self._form["image_size"], self._form["geometry"]
        splits = {name: split.at(size, geometry) for name, split in named.items() if split is not None}
        parts = {
            name: Part(keys.of_images(split), split.images, np.arange(len(split))) for name, split in splits.items()
        }
        if mirrored:
            parts["mirrored"] = replace(parts["train"], ids=keys.of_mirrored(parts["train"].ids), mirrored=True)
        reasons = []
        for cut in candidates:
            try:
                return self._at(cut, parts, started)
            except NotCached as reason:
                reasons.append(reason)
        raise reasons[0]

    def _at(self, cut: Cut, parts: dict[str, Part], started: float) -> tuple[CachedFeed, dict[str, Any]]:
        if self.config.cache_features == "auto" and cut.multiplications < _LEAST * 4 * cut.values:
            raise NotCached(
                f"the frozen layers, up to {cut.layer}, are little work for the {cut.values:,} numbers they give for "
                "an image: reading them would take as long"
            )
        below, above = cut.halves(self.model)
        network = keys.of_network(below)
        entry, computed = self._filled(cut, network, below, "moving", list(parts.values()))
        rows = {name: entry.find(part.ids) for name, part in parts.items()}
        total = sum(map(len, rows.values()))
        measured = self._measured(cut, network, below, parts["test"]) if bn_layers(below) else None
        if measured:
            total, computed = total + len(measured[1]), computed + measured[2]
        size = total * entry.row_bytes
        in_memory = size <= min(_IN_MEMORY, _available() // 4)
        views = np.concatenate([rows.pop(name) for name in ("train", "mirrored") if name in rows])
        training = Table(entry, views, in_memory=in_memory)
        tables: dict[tuple[str, Statistics], Table] = {
            (name, "moving"): Table(entry, one[self._in_batches(len(one))], in_memory=in_memory)
            for name, one in rows.items()
        }
        if measured:
            tables["test", "batch"] = Table(*measured[:2], in_memory=in_memory)
        elif not bn_layers(below):
            tables["test", "batch"] = tables["test", "moving"]
        seconds = time.monotonic() - started
        self.progress.say(
            f"features: everything up to {cut.layer} is frozen: {computed:,} images computed, {total - computed:,} "
            f"read from the cache, {size_in_words(size)}, {seconds:.1f} s"
        )
        return CachedFeed(self.model, above, self.config, self.dataset, training, tables, cut.above), {
            "cut": cut.layer,
            "shape": list(cut.shape),
            "precision": self.config.cache_precision,
            "key": entry.path.name,
            "computed": computed,
            "read": total - computed,
            "bytes": size,
            "in_memory": in_memory,
            "seconds": round(seconds, 1),
        }

    def _in_batches(self, examples: int) -> np.ndarray:
        """The numbers of the images of an evaluation's batches, one after another."""
        size, starts = pipeline.eval_starts(examples, self._form["batch_size"])
        return (starts[:, None] + np.arange(size)).reshape(-1)

    def _measured(self, cut: Cut, network: str, below: keras.Model, test: Part) -> tuple[Entry, np.ndarray, int] | None:
        """The test images' features under batch statistics: (entry, rows, computed).

        They depend on which images share a batch, so they are kept by their place in the evaluation's sequence of
        batches. None where they do not fit: the evaluation then uses the images."""
        numbers, size = self._in_batches(len(test.ids)), min(self._form["batch_size"], len(test.ids))
        part = replace(test, ids=keys.of_places(len(numbers)), numbers=numbers, together=size)
        sequence = hashlib.sha256(test.ids.tobytes()).hexdigest()
        try:
            entry, computed = self._filled(cut, network, below, "batch", [part], batch_size=size, sequence=sequence)
        except NotCached as reason:
            self.progress.say(f"features under batch statistics are not cached: {reason}")
            return None
        return entry, entry.find(part.ids), computed

    def _filled(
        self, cut: Cut, network: str, below: keras.Model, statistics: Statistics, parts: list[Part], **more: Any
    ) -> tuple[Entry, int]:
        """(entry with a row for every image of `parts`, number of rows computed). Raises NotCached."""
        config, image_size = self.config, self._form["image_size"]
        kind = {"shape": list(cut.shape), "dtype": config.cache_precision, "statistics": statistics}
        key = keys.combined(network=network, pixels=self._pixels, **kind, **more)
        about = {
            **kind,
            "backbone": config.backbone,
            "cut": cut.layer,
            "data": self.dataset.name,
            "image_size": image_size,
            "preprocess": config.preprocess,
        }
        ids = np.concatenate([part.ids for part in parts])
        budget = size_in_bytes(config.cache_budget) if config.cache_budget is not None else None
        try:
            entry = self.held.enter_context(feature_store.opened(key, about, ids, budget=budget))
            run = Network(below, statistics, **self._pixel_form)
            return entry, fill(entry, run, parts, self.progress)
        except (feature_store.OverBudget, DoesNotKeep) as reason:
            raise NotCached(str(reason)) from None
        except OSError as error:
            if config.cache_features == "on":
                raise
            where = error.filename or feature_store.cache_folder()
            raise NotCached(f"{os.strerror(error.errno or 0)}: {where}") from None


def _views(config: RunConfig) -> bool:
    """Whether training images are also mirrored. Raises NotCached where they are changed in other random ways."""
    augmentation = batches.augmentation(config)
    for mirrored in (False, True):
        if augmentation == Augmentation(crop_padding=0, flip=mirrored):
            return mirrored
    changes = [name for name in CHANGES if config.is_set(name)]
    how = f"--{changes[0].replace('_', '-')}" if changes else f"--augment {config.augment}"
    remedy = "without, they would be" if changes else "with none, or flip, they would be"
    raise NotCached(f"training images are changed at random, {how}: {remedy}")


def _available() -> int:
    """Bytes of memory that are available; 4 GiB where the system does not report it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 2**32
