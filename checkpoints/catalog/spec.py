"""What one row of the catalogue says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """A published checkpoint and all that is needed to use it.

    name, source: `source/name` is unique; the bare name works where only one source has it.
    family, arguments: the module of `finetune.backbone.networks` that builds the graph, and what its `build` is given.
    url, md5, sha256: the published file (with the head) and its hash, of the one or the other kind; `*_no_head` of the
        file without, where there is one.
        `url` is None for weights that ship with this package: `bundled` is their path below `checkpoints/bundled`
        (the prefix, for a V2 checkpoint). Without either, the user must give a file,
        unless the source is `scratch`.
    preprocessing: one of `finetune.data.preprocessing.PREPROCESSINGS`.
    image_size, least_size: side in px as published, and the smallest the graph can take.
    outputs, label_offset: number of logits, and the logit of ImageNet class 0 (1 where a background class is first).
    head, auxiliary: fnmatch patterns over the file's variable names: the old logits; heads used in training only.
    bn_decay, bn_epsilon: of the published training; `bn_decay` is the share of the old moving value kept. None for a
        network without BatchNorm.
    top1, top5: published ImageNet accuracy in percent, or None.
    parameters: weights and statistics without the head.
    image_shape: (height, width, channels) of a file whose images are not square RGB; `image_size` is its longer side.
    evaluation: (resize mode, fraction of each side) of the published evaluation, as in
        `finetune.data.geometry.Geometry`; None where no source says it.
    own_size: trained at `image_size` unless the user sets another, whatever the size of the data.
    reference: paper and source file.

    A file or module of the user is described by the same fields: source `file` (a Keras model) or `hub` (a SavedModel),
    `name` the absolute path or the handle, `preprocessing` "" where only the user knows it. Source `kerashub` is a
    preset of KerasHub, `name` its name or the absolute path of its folder.

    Source `scratch` are networks without published weights: they train from random ones, at the images' own
    size, unless the user gives a file. `image_size`, `preprocessing` and `bn_decay` are those they are designed for,
    and `outputs` is 0.
    """

    name: str
    source: str
    family: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    preprocessing: str
    image_size: int
    least_size: int = 1
    outputs: int = 0
    label_offset: int = 0
    head: tuple[str, ...] = ()
    bn_decay: float | None
    bn_epsilon: float | None
    reference: str
    url: str | None = None
    md5: str | None = None
    url_no_head: str | None = None
    md5_no_head: str | None = None
    sha256: str | None = None
    sha256_no_head: str | None = None
    bundled: str | None = None
    auxiliary: tuple[str, ...] = ()
    top1: float | None = None
    top5: float | None = None
    parameters: int | None = None
    evaluation: tuple[str, float] | None = None
    own_size: bool = False
    image_shape: tuple[int, int, int] | None = None

    @property
    def id(self) -> str:
        """What finds it again: `source/name`, unique in the catalogue; the path of a file; `hub:` and a handle;
        `kerashub:` and a preset."""
        if self.source in ("hub", "kerashub"):
            return f"{self.source}:{self.name}"
        return self.name if self.source == "file" else f"{self.source}/{self.name}"

    @property
    def whole_model(self) -> bool:
        """Whether it is a Keras model with its weights, that is none of the catalogue: a file, or a KerasHub preset."""
        return self.source in ("file", "kerashub")

    @property
    def unpublished(self) -> bool:
        """Whether there is nothing to fetch and nothing to ask for: training starts from random weights."""
        return self.source == "scratch"

    @property
    def label(self) -> str:
        """A short name for a directory: of a path or handle, what tells it from others."""
        if self.source not in ("file", "hub", "kerashub"):
            return self.id
        parts = [part for part in re.split(r"[/\\:]+", self.name) if part]
        last = (parts[-1].rpartition(".")[0] if self.source != "kerashub" else "") or parts[-1]
        chosen = parts[-3:] if self.source == "hub" and "://" in self.name else [last]
        if last == "model" and len(parts) > 1:
            chosen = parts[-2:-1]
        return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join([self.source, *chosen]))
