"""The batches of a completed config for training and evaluation, and `EvalSet`, from which measurements take theirs."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.config import CHANGES, RunConfig
from finetune.data import channels, pipeline
from finetune.data.augmentation import Augmentation
from finetune.data.dataset import WHOLE, Share, Split, stratified_subset
from finetune.data.geometry import CENTRE, Geometry, geometry_of
from finetune.data.label_sets import strata
from finetune.data.lazy import LazyImages
from finetune.data.preprocessing import find_preprocessing
from finetune.errors import WrongUse
from finetune.text import ImageSize, shape_of


def training(split: Split, config: RunConfig, *, epoch: int, start: int, share: Share = WHOLE) -> pipeline.Batches:
    """(images, labels) from batch `start` of `epoch` on, or a worker's share of each.

    They are a function of (seed, epoch, batch) alone.
    """
    return pipeline.train_batches(split, epoch_of(config, epoch, start), share=share, **form(config))


def epoch_of(config: RunConfig, number: int, start: int = 0) -> pipeline.Epoch:
    """Epoch `number` of a run, from batch `start` on: the order of its images and their augmentation."""
    return pipeline.Epoch(config.seed, number, augmentation(config), start, config.sampler == "balanced")


def check_augmentation(split: Split, config: RunConfig) -> None:
    """Raise WrongUse if the images of `split` cannot be augmented as `config` asks."""
    taken = form(config)
    size, geometry = taken["image_size"], taken["geometry"]
    colours = [name for name in ("rand_augment", "trivial_augment", "color_jitter") if config.is_set(name)]
    if colours and shape_of(size).channels == 4:
        raise WrongUse(
            f"--{colours[0].replace('_', '-')} changes the colours of grey or RGB images, and the network takes "
            "4 channels: leave it out"
        )
    pipeline.check_augmentation(split.at(size, geometry), augmentation(config))


def evaluation(split: Split, config: RunConfig, *, share: Share = WHOLE) -> pipeline.Batches:
    """(images, labels, counted) in the data's own order; every image counts once and every batch is full.

    With `share`, only a worker's batches.
    """
    return pipeline.eval_batches(split, share=share, **form(config))


def steps_per_epoch(split: Split, config: RunConfig) -> int:
    """Training steps in one epoch over `split`."""
    return pipeline.steps_per_epoch(len(split), form(config)["batch_size"])


def parts_per_step(split: Split, config: RunConfig) -> int:
    """Number of parts in which a training batch passes through the network. Each part updates the moving statistics."""
    return pipeline.parts_per_step(len(split), form(config)["batch_size"], config.microbatch)


def mixes(config: RunConfig) -> bool:
    """Whether training labels are shares of classes, float32 `[batch, classes]`."""
    return augmentation(config).mixes


def augmentation(config: RunConfig) -> Augmentation:
    """How a completed config augments its training images."""
    augment = config.augment or "none"
    return Augmentation(
        crop_padding=(config.crop_padding or 0) if augment in ("crop", "crop-flip") else 0,
        flip=augment.endswith("flip"),
        resized_crop=augment.startswith("resized-crop"),
        **{name: getattr(config, name) for name in CHANGES},
    )


def form(config: RunConfig) -> dict[str, Any]:
    """The form in which a completed config takes its images: batch_size, image_size, preprocessing, geometry."""
    if config.batch_size is None or config.image_size is None or config.preprocess is None:
        raise ValueError("the config is not complete: call finetune.runs.request.complete first")
    return {
        "batch_size": config.batch_size,
        "image_size": config.image_size,
        "preprocessing": find_preprocessing(config.preprocess),
        "geometry": geometry_of(config),
    }


def fitting(split: Split, config: RunConfig) -> tuple[str, ...]:
    """Sentences on what the network gets of the images: which part, and in which channels."""
    taken, images = form(config), split.images
    size = taken["image_size"]
    if isinstance(images, LazyImages) and images.native is None:  # each has channels and a size of its own
        each = (channels.words(found, shape_of(size).channels) for found in images.photos.channels)
        return tuple(filter(None, each))
    height, width, found = images.shape[1:]
    cut = split.at(size, taken["geometry"]).images.shape
    part = "square" if cut[1] == cut[2] else f"part of {cut[2]} x {cut[1]} px"
    padded = cut[1] > height or cut[2] > width
    what = f"images of {width} x {height} px are padded to {cut[2]} x {cut[1]} px"
    what = what if padded else f"the centre {part} of images of {width} x {height} px is taken"
    cuts = [what] if cut[1:3] != (height, width) else []
    said = channels.words(found, shape_of(size).channels)
    return (*cuts, *([said] if said else []))


def training_subset(split: Split, config: RunConfig, images: int) -> Split:
    """At most `images` of the training images, stratified, in random order, in full batches if there is one.

    The order is random because batch statistics over one class are useless. The batches are full because an image that
    fills up a batch would count twice in pooled statistics.
    """
    classes = len(np.unique(strata(split.labels)))
    if images < classes:
        raise WrongUse(f"--images {images} is fewer than the {classes} classes: give {classes} or more")
    subset = stratified_subset(split, images, config.seed) if images < len(split) else split
    batch_size = config.batch_size or len(subset)
    whole = len(subset) - len(subset) % batch_size or len(subset)
    return subset.take(np.random.default_rng(config.seed).permutation(len(subset))[:whole])


@dataclass(frozen=True)
class Reframed:
    """A preprocessing of images that are cropped or resized in another way."""

    own: Any
    geometry: Geometry

    @property
    def name(self) -> str:
        """As the command line takes it, behind `--preprocess`."""
        fraction = "" if self.geometry.fraction == 1 else f" --crop-fraction {self.geometry.fraction:g}"
        return f"{self.own.name} --resize-mode {self.geometry.mode}{fraction}"

    def apply(self, images: Any) -> Any:
        """As `Preprocessing.apply`."""
        return self.own.apply(images)


def feeding(name: str) -> Any:
    """The preprocessing, or the Reframed one, called `name`. WrongUse as `find_preprocessing`."""
    own, *options = name.split(" --")
    given = dict(one.split(" ") for one in options)
    if not given:
        return find_preprocessing(own)
    mode: Any = given["resize-mode"]
    return Reframed(find_preprocessing(own), Geometry(mode, float(given.get("crop-fraction", 1))))


@dataclass(frozen=True, eq=False)
class EvalSet:
    """Labelled images and the form in which a network takes them.

    The form is a batch size, the size of the images, a preprocessing (anything with `name` and `apply`) and which part
    of an image is taken.
    """

    split: Split
    batch_size: int
    image_size: ImageSize
    preprocessing: Any
    geometry: Geometry = CENTRE

    def __len__(self) -> int:
        return len(self.split)

    @property
    def has_pixels(self) -> bool:
        """Whether the images can be prepared in another way."""
        return True

    @property
    def of_pixels(self) -> Any:
        """The preprocessing of pixels in [0, 255] by which the network gets these images."""
        return self.preprocessing

    @property
    def is_square(self) -> bool:
        """Whether the network takes images as high as wide."""
        shape = shape_of(self.image_size)
        return shape.height == shape.width

    def batches(self) -> pipeline.Batches:
        """(preprocessed images, labels, counted) in the split's order; every image counts once, every batch is full."""
        return pipeline.eval_batches(
            self.split,
            batch_size=self.batch_size,
            image_size=self.image_size,
            preprocessing=self.preprocessing,
            geometry=self.geometry,
        )

    def through(self, preprocessing: Any) -> "EvalSet":
        """The same images with another preprocessing, and as that crops and resizes them."""
        geometry = preprocessing.geometry if isinstance(preprocessing, Reframed) else self.geometry
        return replace(self, preprocessing=preprocessing, geometry=geometry)

    def reframed(self) -> tuple[Reframed, ...]:
        """The same preprocessing with other usual ways to crop and resize photos, of which the centre is taken now."""
        photos = isinstance(self.split.images, LazyImages) and self.split.images.native is None
        if not photos or self.geometry != CENTRE:
            return ()
        others = (Geometry("squash"), Geometry("squash", 0.875), Geometry("crop", 0.875))
        return tuple(Reframed(self.preprocessing, one) for one in others)

    def at(self, batch_size: int) -> "EvalSet":
        """The same images in batches of another size."""
        return replace(self, batch_size=batch_size)

    def some(self, images: int) -> "EvalSet":
        """At most `images` of them, evenly spread over the split and in its order."""
        if images >= len(self):
            return self
        chosen = np.linspace(0, len(self) - 1, images).round().astype(np.int64)
        return replace(self, split=self.split.take(chosen))

    def shuffled(self, seed: int = 0) -> "EvalSet":
        """The same images in random order."""
        return replace(self, split=self.split.take(np.random.default_rng(seed).permutation(len(self))))

    def grouped(self) -> "EvalSet":
        """The same images sorted by class."""
        return replace(self, split=self.split.take(np.argsort(strata(self.split.labels), kind="stable")))
