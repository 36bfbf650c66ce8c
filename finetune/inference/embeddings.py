"""Embeddings: the output of one layer of a network for every image, in one file."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from checkpoints.atomic import replacing
from finetune.backbone import find_backbone, image_size_of, is_preset, load_backbone
from finetune.backbone.endpoints import find_layer
from finetune.config import RECIPE, ResizeMode, RunConfig
from finetune.data import batches
from finetune.data.dataset import Dataset, Split
from finetune.data.image_files import NamedImages, read_images
from finetune.data.lazy import LazyImages
from finetune.data.load_data import absolute, load_data
from finetune.data.sources.assembly import Progress
from finetune.errors import FinetuneError, WrongUse
from finetune.files import room_for
from finetune.runs.model import finished_class_names, open_run, open_trained
from finetune.runs.request import with_recipe
from finetune.runs.run_data import image_shape, white
from finetune.text import ImageSize, printable

Pooling = Literal["mean", "max", "none"]
UNKNOWN = -1
"""The label of an image without one."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network that images are given to.

    model: adopted. config: how images are prepared for it, and its data. class_names: of a finished run. native: as in
    `run_data.image_shape`. white: as in `run_data.white`. stages: of a backbone, as in `backbone.Backbone`.
    """

    model: keras.Model
    config: RunConfig
    class_names: tuple[str, ...] = ()
    native: tuple[int, ...] | None = None
    white: int | None = None
    stages: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbeddingOptions:
    """The options of `finetune features`; None or () where one is not given.

    target: a run, a `.keras` file in one, or a backbone as in `finetune run --backbone`. layer: see `find_layer`.
    images: files and folders without labels; without any, `split` of `data`, or of the run's own data. pool: over
    height and width, where the layer gives maps. checkpoint, image_size, preprocess and how photos
    come to that size: for backbones, as in `finetune run`.
    """

    target: str
    layer: str
    out: Path
    images: tuple[Path, ...] = ()
    data: str | None = None
    data_dir: Path | None = None
    npz_keys: str | None = None
    tfrecord_keys: str | None = None
    csv_columns: str | None = None
    split: str = "test"
    pool: Pooling = "mean"
    checkpoint: Path | None = None
    image_size: ImageSize | None = None
    preprocess: str | None = None
    resize_mode: ResizeMode | None = None
    crop_fraction: float | None = None
    eval_recipe: str | None = None
    batch_size: int | None = None
    skip_bad_images: bool = False


@dataclass(frozen=True)
class Written:
    """The file of embeddings.

    layer: the Keras layer they come from. shape: of the features. classes: how many have a name in the file. skipped:
    damaged images that were left out.
    """

    out: Path
    layer: str
    shape: tuple[int, ...]
    classes: int
    skipped: tuple[str, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For `features --json`."""
        return {**asdict(self), "out": str(self.out)}


def write_features(
    request: EmbeddingOptions, *, progress: Progress | None = None, on_scan: Progress | None = None,
    on_batch: Callable[[], None] | None = None,
) -> Written:  # fmt: skip
    """Write the layer's output for every image to the `.npz` file `request.out`, which must not exist.

    Arrays: `features` float32 `[images, channels]`, or with pooling "none" the layer's own `[images, height, width,
    channels]`; `labels` int64 `[images]`, -1 where unknown; `class_names`; `paths`, for images without a file their
    split and number; `layer`. BatchNorm uses its moving statistics and dropout is off. Images are prepared as in
    evaluation. One batch is in memory at a time: batches are appended to a temporary file, which is renamed at the end.
    Raises WrongUse for options that contradict each other and for an unknown layer, FinetuneError for files.
    """
    _check(request)
    network = _open(request, progress)
    layer = find_layer(network.model, request.layer, stages=network.stages)
    forward = _forward(network.model, layer, request.pool)
    found, class_names = _images(request, network, on_scan)
    split = found.split
    labels = np.full(len(split), UNKNOWN, np.int64) if request.images else split.labels
    shape = (len(split), *(int(side) for side in forward.structured_outputs.shape[1:]))
    with (
        room_for(request.out),
        replacing(request.out) as temporary,
        zipfile.ZipFile(temporary, "w", allowZip64=True) as archive,
    ):
        with archive.open("features.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for images, _, counted in batches.evaluation(split, network.config):
                features = np.asarray(forward(images), np.float32)[np.asarray(counted)]
                file.write(np.ascontiguousarray(features).tobytes())
                if on_batch is not None:
                    on_batch()
        rest = {"labels": labels, "class_names": _text(class_names), "paths": _text(found.names)}
        for name, array in {**rest, "layer": _text([layer.name])[0]}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return Written(request.out, layer.name, shape, len(class_names), found.skipped, found.remarks)


def _check(request: EmbeddingOptions) -> None:
    if request.out.suffix != ".npz":
        raise WrongUse(f"--out {request.out}: expected a name that ends in .npz")
    if request.out.exists() or request.out.is_symlink():
        raise WrongUse(f"--out {request.out} is already there and is not overwritten: give another name")
    if request.images and request.data is not None:
        raise WrongUse("--data and image files are two sources of images: give one of them")


def _open(request: EmbeddingOptions, progress: Progress | None) -> Network:
    """The run's model, or the backbone. WrongUse for options that do not go with it."""
    path = Path(request.target)
    folder = path.parent if path.suffix == ".keras" and not path.is_dir() else path
    if (folder / "config.json").is_file() and not is_preset(folder):
        known = ("checkpoint", "image_size", "preprocess", *RECIPE)
        given = [name for name in known if getattr(request, name) is not None]
        if given:
            raise WrongUse(
                f"--{given[0].replace('_', '-')}: {request.target} is a run, whose config.json has this setting: "
                "leave it out"
            )
        trained = open_trained(path)
        config = replace(trained.config, batch_size=request.batch_size or trained.config.batch_size)
        names = finished_class_names(trained.run) if trained.run.status == "done" else ()
        native = image_shape(trained.run, config) if request.images else None
        return Network(trained.model, config, names, native, white(trained.run))
    if not request.images and request.data is None:
        raise WrongUse(
            f"missing the images: {request.target} is a backbone, which has no data of its own; give --data NAME|PATH, "
            "or image files and folders"
        )
    spec = find_backbone(request.target)
    preprocess = request.preprocess or spec.preprocessing
    if not preprocess:
        raise WrongUse(f"missing --preprocess: {spec.id} does not say how its pixels were prepared")
    size = image_size_of(spec, request.image_size)
    config = RunConfig(
        spec.id,
        image_size=size,
        preprocess=preprocess,
        batch_size=request.batch_size or 32,
        validation=0.0,
        **{name: getattr(request, name) for name in RECIPE if getattr(request, name) is not None},
    )
    config = with_recipe(config, spec)
    loaded = load_backbone(spec, image_size=size, checkpoint=request.checkpoint, progress=progress)
    return Network(loaded.model, config, stages=loaded.stages)


def _forward(model: keras.Model, layer: Any, pool: Pooling) -> Any:
    """Preprocessed images to float32 features, traced: BatchNorm uses its moving statistics, dropout is off."""
    part = keras.Model(model.input, layer.output)
    axes = list(range(1, len(layer.output.shape) - 1))
    reduce = {"mean": tf.reduce_mean, "max": tf.reduce_max, "none": None}[pool]

    def run(images: tf.Tensor) -> tf.Tensor:
        features = tf.cast(part(images, training=False), tf.float32)
        return reduce(features, axis=axes) if reduce is not None and axes else features

    signature = [tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)]
    return tf.function(run, input_signature=signature, autograph=False).get_concrete_function()


def _images(
    request: EmbeddingOptions, network: Network, on_scan: Progress | None
) -> tuple[NamedImages, tuple[str, ...]]:
    """The images with their paths, and the class names. Images without a file are named by their split and number."""
    if request.images:
        found = read_images(
            request.images,
            native=network.native,
            white=network.white,
            skip_bad=request.skip_bad_images,
            on_scan=on_scan,
        )
        return found, network.class_names
    dataset = _dataset(request, network, on_scan)
    split: Split | None = getattr(dataset, request.split)
    if split is None:
        raise FinetuneError(f"{dataset.source} has no {request.split} images: give --split train or test")
    names = [f"{request.split}/{number}" for number in range(len(split))]
    if isinstance(images := split.images, LazyImages):
        names = [images.photos.name(int(number)) for number in images.chosen]
    return NamedImages(tuple(names), split, dataset.skipped, dataset.remarks), dataset.class_names


def _dataset(request: EmbeddingOptions, network: Network, on_scan: Progress | None) -> Dataset:
    if request.data is None:
        return open_run(Path(request.target), data_dir=request.data_dir).dataset
    other = replace(
        network.config,
        data=absolute(request.data),
        data_dir=str(request.data_dir) if request.data_dir else None,
        npz_keys=request.npz_keys,
        tfrecord_keys=request.tfrecord_keys,
        csv_columns=request.csv_columns,
        skip_bad_images=request.skip_bad_images,
        exclude=None,
        examples=None,
        validation=0.0 if request.split != "validation" else network.config.validation or 0.05,
    )
    return load_data(other, white=network.white, on_scan=on_scan)


def _text(names: Sequence[str]) -> np.ndarray:
    """Text as an array of a fixed-width string type, which is read without unpickling."""
    return np.array([printable(name) for name in names], dtype=np.str_)
