"""The checkpoint a model was fine-tuned from: its moving statistics, and whether gamma and beta have changed since."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.formats import Checkpoint, open_checkpoint
from finetune.batchnorm.subject import Snapshot, Subject
from finetune.diagnosis.evidence import Facts
from finetune.errors import FinetuneError

_KINDS = ("gamma", "beta", "moving_mean", "moving_variance")
"""In the order in which Keras keeps a BatchNormalization layer's variables."""
_COUNTED = re.compile(r"(.*/)?batch_normalization(_\d+)?")
"""Keras's numbered names. The numbers depend on what else the process built, so one alone identifies no layer."""
_KEY = re.compile(r"(.*?)([^/]+)/vars/\d+$")


@dataclass(frozen=True, eq=False)
class History:
    """What is known of a model's training. source: the moving statistics it started from, of the layers where known."""

    facts: Facts
    source: Snapshot | None = None


def read_history(path: Path | None, subject: Subject, facts: Facts) -> History:
    """`facts`, completed from the checkpoint at `path` that the model was fine-tuned from, where one is given.

    The file shows the statistics of every BN layer that it has too, and whether gamma and beta are still those of the
    file (None where it holds neither).

    Layers are found by name: slim's scopes with `/` or `.`, or Keras's layer names, in a model or scope of any name.
    Where names do not find all, they are matched in their order, if the file has as many BN layers with the same
    numbers of channels. Raises CheckpointError where the file cannot be read, FinetuneError where it has none of the
    subject's layers.
    """
    if path is None:
        return History(facts)
    file = open_checkpoint(path)
    places = _places(file)
    now = subject.snapshot()
    shapes = {layer.name: now[layer.name][0].shape for layer in subject.layers}
    by_name = {name: _scope(name, places) for name in shapes}
    matched = {
        name: places[scope]
        for name, scope in by_name.items()
        if scope is not None and file.shapes[places[scope]["moving_mean"]] == shapes[name]
    }
    if len(matched) < len(shapes):
        if [file.shapes[one["moving_mean"]] for one in places.values()] == list(shapes.values()):
            matched = dict(zip(shapes, places.values(), strict=True))
        else:
            matched = {name: place for name, place in matched.items() if not _COUNTED.fullmatch(name)}
    if not matched:
        have = f"{next(iter(places))} and the like" if places else "otherwise: it has none"
        raise FinetuneError(
            f"--source-checkpoint {path} has none of the model's BN layers: the model's are called "
            f"{subject.layers[0].name} and the like, the file's {have}; give the checkpoint the model was fine-tuned "
            "from"
        )
    statistics = {
        name: (file.read(place["moving_mean"]), file.read(place["moving_variance"])) for name, place in matched.items()
    }
    return History(replace(facts, affine_moved=_affine_moved(file, subject, matched)), statistics)


def _affine_moved(file: Checkpoint, subject: Subject, matched: Mapping[str, Mapping[str, str]]) -> bool | None:
    same = [
        np.array_equal(own, file.read(matched[layer.name][kind]))
        for layer in subject.layers
        for kind, own in (("gamma", layer.gamma), ("beta", layer.beta))
        if own is not None and kind in matched.get(layer.name, {})
    ]
    return not all(same) if same else None


def _places(file: Checkpoint) -> dict[str, dict[str, str]]:
    """BN scope or layer -> kind -> name in the file, in the file's order."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    keys: dict[str, list[str]] = defaultdict(list)
    for name in file.shapes:
        scope, _, kind = name.rpartition("/")
        if kind in _KINDS:
            places[scope][kind] = name
        elif key := _KEY.match(name):
            keys[file.layers.get(name) or f"{key[1]}{key[2]}"].append(name)
    for scope, names in keys.items():
        if kinds := _of_keys(file, names):
            places[scope].update(zip(kinds, names, strict=True))
    return {scope: place for scope, place in places.items() if {"moving_mean", "moving_variance"} <= place.keys()}


def _of_keys(file: Checkpoint, names: Sequence[str]) -> tuple[str, ...]:
    """The kinds of the variables `vars/0` and so on of a `.weights.h5`; none where that is no BatchNormalization."""
    shapes = {file.shapes[name] for name in names}
    if "batch_normalization" not in names[0].split("/vars/")[0].rpartition("/")[2] or len(shapes) != 1:
        return ()
    # With three, gamma or beta is missing. The file does not say which, so only the statistics are certain.
    return {4: _KINDS, 3: ("", *_KINDS[2:]), 2: _KINDS[2:]}.get(len(names), ())


def _scope(name: str, places: Mapping[str, Any]) -> str | None:
    """The file's name for a layer, also where one of them is inside another model or scope. None if not certain."""
    spelled = (name, name.replace(".", "/"))
    for one in spelled:
        if one in places:
            return one
    inside = {scope for one in spelled for scope in places if scope.endswith(f"/{one}") or one.endswith(f"/{scope}")}
    return inside.pop() if len(inside) == 1 else None
