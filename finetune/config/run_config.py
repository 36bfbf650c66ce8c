"""A run's settings as one value: running it again repeats the run. Each setting is declared here and nowhere else."""

import dataclasses
import shlex
from dataclasses import KW_ONLY, MISSING, dataclass
from typing import Any, Literal

from finetune.config.settings import (
    Role,
    by_class,
    declared_settings,
    fraction,
    keys,
    number,
    or_auto,
    path,
    separator,
    setting,
    share,
    size,
    text,
    texts,
    whole,
)
from finetune.config.settings import (
    image_size as size_of_images,
)
from finetune.text import ImageSize

_OF_DATA: tuple[Role, ...] = ("chooses_images", "decides_features")
Augment = Literal["resized-crop-flip", "resized-crop", "crop-flip", "crop", "flip", "none"]
Precision = Literal["float32", "bfloat16", "float16", "auto"]
ResizeMode = Literal["crop", "squash", "pad"]


@dataclass(frozen=True)
class RunConfig:
    """What `finetune run` was asked for. None means "choose what suits the data"; `finetune.runs.request`
    replaces every None before the run starts, and the complete value is written to `config.json`.

    The check, the option of `finetune run`, the keys of a jobs file and the table in docs/settings.md come from these
    declarations, in this order; the string below a setting is its help text. Decays, fractions and probabilities lie in
    [0, 1); sizes are px.
    """

    backbone: str = setting(
        MISSING,
        text("a name of 'finetune backbones list', hub:HANDLE, kerashub:PRESET, or the path of a model", "NAME|PATH"),
        section="What to start from",
        roles=("decides_features",),
    )
    """A name of 'finetune backbones list', such as resnet_v1_101; a Keras model of your own (.keras, .h5, a run);
    hub:HANDLE or a SavedModel directory; kerashub:PRESET or the folder of a KerasHub preset."""
    _: KW_ONLY
    checkpoint: str | None = setting(
        None,
        path("PATH"),
        unset="the published file, from the cache or fetched",
        roles=("decides_features", "may_change_on_resume"),
    )
    """Your own file of the backbone's weights: slim V1/V2 file, .ckpt prefix, training directory or .tar.gz; Keras .h5,
    .weights.h5 or .keras; SavedModel directory."""
    from_averages: bool = setting(False, roles=("decides_features",))
    """Start from the moving averages of the weights that a TF1 checkpoint holds beside them
    (.../ExponentialMovingAverage)."""
    from_scratch: bool = setting(False)
    """Start from random weights instead of a checkpoint."""

    data: str = setting(
        "cifar10",
        text("the name of a data set, such as cifar10, or a path", "NAME|PATH"),
        section="Data",
        roles=("chooses_images", "decides_features"),
    )
    """cifar10, cifar100, cifar100-coarse, mnist, fashion_mnist, demo-source, demo-target or tfds:NAME; or a folder of
    images per class (with train/, val/, test/ or without), TFRecords or a folder of them, arrays (.npz, .h5, .mat,
    .pkl, a folder of .npy), a table of image files (.csv, .tsv, .parquet), a .csv of pixels, or Parquet files with
    images."""
    data_dir: str | None = setting(
        None, path("DIR"), roles=("chooses_images", "decides_features", "may_change_on_resume", "not_compared")
    )
    """Folder that holds the data: cifar-10-batches-py/, cifar-100-python/ or the like, or the .tar.gz. For a path given
    with --data: where that data is now."""
    npz_keys: str | None = setting(
        None, keys("x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "class_names"), roles=_OF_DATA
    )
    """The names of the arrays in an .npz or the like, if they are not found, such as x_train=photos,y_train=kinds."""
    tfrecord_keys: str | None = setting(
        None, keys("image", "label", "text", "format", "height", "width"), roles=_OF_DATA
    )
    """The names of the features in TFRecords, where they are not found, such as image=photo,label=kind, or text=kind
    for labels that are text."""
    csv_columns: str | None = setting(None, keys("path", "label", "split"), roles=_OF_DATA)
    """The columns of a table of images, where they are not found, such as path=file_id,label=breed; label=rust+scab
    where each class has a column."""
    multi_label: bool = setting(False, roles=("chooses_images",))
    """An image may have several labels, also where the data does not show it: one-hot rows, or folders of classes that
    hold the same file (a link, or equal bytes under one name)."""
    label_separator: str | None = setting(None, separator(), roles=("chooses_images",))
    """What stands between the labels of an image in a table, where it is not found: '|', ';', ',' or ' '."""
    examples: int | None = setting(None, whole(1), roles=("chooses_images",))
    """Train on N images, the same share of every class."""
    few_shot: int | None = setting(None, whole(1, "K"), roles=("chooses_images",))
    """Train on K images of every class, drawn by the seed."""
    test: float = setting(0.2, number(1e-6, 0.999), roles=("chooses_images",))
    """Share of the images held out as test images, where the data has none."""
    validation: float = setting(0.05, fraction(), roles=("chooses_images",))
    """Share of the training images held out for validation."""
    skip_bad_images: bool = setting(False, roles=("chooses_images",))
    """Leave damaged images out, and list them."""
    exclude: str | None = setting(None, path("FILE"), roles=("chooses_images", "may_change_on_resume"))
    """A list of images to leave out, as 'finetune data check --out' writes it."""
    background_class: bool = setting(False, roles=("chooses_images",))
    """Keep class 0 of data whose labels start at 1: slim's background class. --head keep sets it for a head that has
    one."""
    allow_overlap: bool = setting(False, roles=("may_change_on_resume",))
    """Run although some test images are also training images."""

    image_size: ImageSize | None = setting(  # noqa: RUF009 - it makes a field
        None,
        size_of_images(),
        unset="three times the images' own; their own from scratch",
        section="Images",
        roles=("decides_features",),
    )
    """Side of the images in px, or their height and width, such as 24x32."""
    preprocess: str | None = setting(
        None,
        text("the name of a preprocessing, such as inception", "NAME"),
        unset="the backbone's",
        roles=("decides_features",),
    )
    """inception, vgg, caffe, torch, densenet, cifar, unit, raw, per-image, or numbers (scale=1/255,mean=0.5)."""
    resize_mode: ResizeMode | None = setting(  # noqa: RUF009 - it makes a field
        None, unset="crop, or as --eval-recipe has it", roles=("decides_features",)
    )
    """How an image of another shape than the network's becomes one. crop: its centre part. squash: stretched. pad:
    whole, with black beside it. Random crops of training are not affected."""
    crop_fraction: float | None = setting(
        None, number(0.01, 1), unset="1, or as --eval-recipe has it", roles=("decides_features",)
    )
    """Share of each side that is kept, around the centre, such as 0.875."""
    eval_recipe: Literal["plain", "published", "keras"] = setting("plain", roles=("decides_features",))
    """published: pixels as the published accuracy of slim's networks was measured. keras: as
    image_dataset_from_directory makes them. plain: new pixels average all old ones that they cover."""
    augment: Augment | None = setting(  # noqa: RUF009 - it makes a field
        None, unset="crop-flip; resized-crop-flip for photos; none for a linear probe", roles=("decides_features",)
    )
    """Random crops and mirror images; for digits and text those without flip."""
    crop_padding: int | None = setting(None, whole(0, "PX"), unset="1/8 of the side")
    """Padding of the random crop, in px."""
    flip_vertical: bool = setting(False)
    """Turn half of the images upside down, as suits images from above or through a microscope."""
    rotate: float | None = setting(None, number(0.01, 180, "DEGREES"))
    """Turn every image by a random angle of at most so many degrees, to either side."""
    rand_augment: float | None = setting(None, number(0.01, 1, "[MAGNITUDE]"), alone=0.5)
    """RandAugment: two random operations on every image. The magnitude is at most 1; without a number it is 0.5."""
    trivial_augment: bool = setting(False)
    """TrivialAugment: one random operation of random strength on every image. It has nothing to set."""
    color_jitter: float | None = setting(None, number(0.01, 1, "STRENGTH"))
    """Brightness, contrast and saturation of every image times random factors from 1 - STRENGTH to 1 + STRENGTH; 0.4 is
    usual."""
    erase: float | None = setting(None, number(0.01, 1, "P"))
    """Random erasing: with probability P a random box of an image becomes noise; 0.25 is usual."""
    mixup: float | None = setting(None, number(0.01, 10, "ALPHA"))
    """Mix the images of a batch and their labels; 0.2 is usual."""
    cutmix: float | None = setting(None, number(0.01, 10, "ALPHA"))
    """Paste a box of another image, and its label; 1 is usual."""

    dropout: float = setting(0.0, fraction(), section="Head")
    """Dropout before the logits."""
    hidden: int | None = setting(None, whole(1))
    """A hidden layer of N units in the head."""
    head: Literal["swap", "keep"] = setting("swap")
    """swap: a new head. keep: the file's own head, whose classes are the data's in the same order."""
    features: str | None = setting(
        None, text("the name of a layer", "LAYER"), unset="the input of its head", roles=("decides_features",)
    )
    """Layer of a model file whose output is the features."""
    output: str | None = setting(None, text("the name of an output", "NAME"), roles=("decides_features",))
    """The output of a model file that is meant, where it has several."""

    preset: Literal["linear-probe", "fine-tune", "gradual"] | None = setting(None, section="What trains")
    """linear-probe: train the head alone. fine-tune: the defaults. gradual: first the head, then stages from the top,
    with lower rates below. Options given with a preset win over it."""
    freeze: tuple[str, ...] = setting((), texts("PATTERN[=train]", "PATTERN[=train]"))
    """Freeze matching layers; '=train' exempts them from later patterns. First match wins. Repeatable."""
    freeze_until: str | None = setting(None, text("the name of a stage", "STAGE"))
    """Freeze every stage up to and including STAGE."""
    unfreeze_epochs: int | None = setting(None, whole(1))
    """Train the head alone, then ever more stages from the top, and all of them after N epochs."""
    layer_decay: float | None = setting(None, number(1e-3, 1))
    """Multiply the learning rate once for every stage from the top: 0.8 gives 0.8, 0.64, ... below the head."""

    bn: tuple[str, ...] = setting((), texts("[PATTERN=]POLICY", "[PATTERN=]POLICY"), section="BatchNorm")
    """BN policy train, freeze, affine or stats, for matching layers. First match wins. Repeatable."""
    bn_decay: float | Literal["auto"] = setting(
        "auto",
        or_auto(share("the share of the old moving value kept at one update, a number inside (0, 1), such as 0.95")),
    )
    """Share of the old moving value kept at one update."""
    bn_epsilon: float | None = setting(None, number(1e-12, 1), unset="as published", roles=("decides_features",))
    """Added to the variance."""
    bn_updates: Literal["on", "off"] = setting("on")
    """off: never update the moving statistics, as with forgotten UPDATE_OPS."""
    bn_renorm: bool = setting(False)
    """Batch renormalisation, for small batches."""
    bn_zero_debias: bool = setting(False)
    """Zero-debiased moving mean: the first update replaces its start."""
    bn_sync: bool = setting(False)
    """With --distribute: batch statistics over the whole batch, not over each replica's share."""
    recalibrate_at_end: bool | None = setting(None, unset="on where --bn-decay is auto and the updates are too few")
    """Recompute the moving statistics at the end."""
    diagnose_every: int | None = setting(None, whole(1, "K"))
    """Diagnose BatchNorm every K epochs, on validation and training images, into metrics.jsonl."""
    tracker: tuple[str, ...] = setting(
        (),
        texts("tensorboard[=DIR], mlflow[=DIR|URI] and wandb[=PROJECT]", "NAME[=PLACE]"),
        roles=("may_change_on_resume", "not_compared"),
    )
    """Also report to a tracker: tensorboard[=DIR] (in the run, or in DIR), mlflow[=DIR|URI] (mlflow.db next to the
    runs, or there), wandb[=PROJECT] (offline in the run, unless WANDB_MODE=online is set). Repeatable. metrics.csv and
    metrics.jsonl are always written."""

    epochs: int | None = setting(None, whole(1), unset="by the number of images", section="Training")
    """Passes over the training images."""
    batch_size: int | None = setting(None, whole(1), unset="64, less for few images")
    """Images of one training step."""
    microbatch: int | None = setting(None, whole(1), unset="the whole batch")
    """At most N images of a batch at a time, their gradients added up: less memory. BatchNorm normalises by each N, and
    is updated by each."""
    precision: Precision = setting("float32")  # noqa: RUF009 - it makes a field
    """What training steps compute in. bfloat16 is faster where the processor has it; float16, with loss scaling, is for
    GPUs without it; auto: the faster one, by a trial of ten seconds. Weights, statistics and every evaluation stay
    float32."""
    optimizer: Literal["sgd", "adamw", "rmsprop", "momentum"] = setting("adamw")
    """adamw; sgd with Nesterov momentum 0.9; or slim's own, rmsprop (decay and momentum 0.9, epsilon 1) and momentum
    (0.9)."""
    learning_rate: float | Literal["auto"] | None = setting(
        None, or_auto(number(1e-12, 1e6)), unset="by optimizer and batch", short="lr"
    )
    """Peak learning rate; auto: found by a range test."""
    weight_decay: float | None = setting(None, fraction(), unset="by optimizer")
    """Decoupled weight decay; not on BN and biases."""
    l2: float | None = setting(None, fraction(), unset="4e-5 for rmsprop and momentum, else 0")
    """L2 loss on kernels, as slim's weight_decay: its gradient is part of the step."""
    schedule: Literal["cosine", "constant", "exponential", "polynomial"] = setting("cosine")
    """Learning rate after the warm-up. exponential and polynomial are slim's, and have no warm-up."""
    decay_factor: float = setting(0.94, number(1e-6, 1))
    """exponential: multiply the learning rate by F, every --decay-epochs."""
    decay_epochs: float | None = setting(
        None, number(1e-3, 1e6, "N"), unset="2 for exponential; all epochs for polynomial"
    )
    """exponential: epochs between two decays. polynomial: epochs until the end, from which the rate stays."""
    end_learning_rate: float = setting(1e-4, number(0, 1e6))
    """polynomial: the learning rate at its end; it falls in a straight line."""
    warmup: float = setting(0.1, fraction())
    """Share of the steps in which the learning rate warms up."""
    label_smoothing: float = setting(0.0, fraction())
    """Share of each label spread evenly over all classes."""
    class_weights: str | dict[str, float] | None = setting(  # noqa: RUF009 - it makes a field
        None, by_class()
    )
    """Multiply the loss of each image by the weight of its class. balanced: images / (classes x images of the class).
    FILE: a .csv of class,weight, or a .json object, with every class."""
    sampler: Literal["shuffle", "balanced"] = setting("shuffle")
    """shuffle: every training image once an epoch. balanced: every class equally often, in epochs of the same length;
    images of rare classes repeat, those of frequent ones take turns."""
    loss: Literal["cross-entropy", "focal"] = setting("cross-entropy")
    """focal: images that are already classified well count less (Lin et al. 2017)."""
    focal_gamma: float | None = setting(None, number(0, 10), unset="2 with --loss focal")
    """Focusing parameter of the focal loss; 0 is cross-entropy."""
    # Limits beyond 1e6 make no sense, and what overflows float32 would be NaN without a reason given.
    clip_norm: float | None = setting(None, number(1e-12, 1e6))
    """Clip the gradients' global norm."""
    patience: int | None = setting(None, whole(1))
    """Stop after N epochs without a better validation score, and keep the best epoch's weights."""
    select_by: Literal["accuracy", "balanced-accuracy", "macro-f1", "map", "loss"] | None = setting(
        None, unset="accuracy; map of several labels an image"
    )
    """The validation score that decides which epoch is the best (--patience), and ranks runs. map: mean average
    precision, of images with several labels."""
    distribute: Literal["none", "mirrored", "multi-worker"] = setting("none", roles=("may_change_on_resume",))
    """mirrored: over the GPUs of this machine. multi-worker: over machines, each of which runs this command, as
    TF_CONFIG or Slurm says. --batch-size is that of all of them together."""

    ema: float | None = setting(None, share(), section="At the end")
    """Average the weights, keeping the share F at every step, such as 0.999. BN statistics are recalibrated for the
    average, which is what model.keras holds."""
    swa_start: int | None = setting(None, whole(1, "E"))
    """Stochastic weight averaging: the mean of the weights at the ends of epoch E and all later ones. BN statistics are
    recalibrated for the average, which is what model.keras holds."""
    calibrate: bool = setting(False)
    """Fit a temperature on the validation images, by which the logits are divided before probabilities are made of them
    (Guo et al. 2017)."""
    tta: Literal["flip", "five-crop", "ten-crop"] | None = setting(None)
    """Also score the averaged probabilities of several views of every test image. flip: it and its mirror image.
    five-crop: its centre and four corners. ten-crop: these and their mirror images."""
    cache_features: Literal["auto", "on", "off"] = setting("auto", roles=("may_change_on_resume",))
    """Compute the output of the frozen layers once per image, and keep it for other runs. auto: where that pays and
    fits. on: or fail. off: never."""
    cache_precision: Literal["float32", "float16"] = setting("float32", roles=("decides_features",))
    """Type of the cached features; float16 takes half the space."""
    cache_budget: str | None = setting(
        None, size(), unset="a quarter of the free disk", roles=("may_change_on_resume",)
    )
    """What all cached features may take, such as 10GiB; the least recently used are removed first."""

    seed: int = setting(0, whole(0), section="The run")
    """Seed of all random numbers."""
    deterministic: bool = setting(False)
    """Bit-identical repeats on one machine; slower."""

    def to_json(self) -> dict[str, Any]:
        """For `config.json`."""
        return dataclasses.asdict(self)

    def is_set(self, name: str) -> bool:
        """Whether the setting `name` differs from its default."""
        return bool(getattr(self, name) != SETTINGS[name].default)

    def as_option(self, name: str) -> str:
        """The setting `name` as it is typed: `--freeze '*' --freeze conv1`, `--from-scratch`."""
        option, value = f"--{name.replace('_', '-')}", getattr(self, name)
        if isinstance(value, bool):
            return option if value else f"--no-{option[2:]}"
        values = value if isinstance(value, tuple) else (value,)
        return " ".join(f"{option} {shlex.quote(str(one))}" for one in values)

    def as_command(self) -> str:
        """The `finetune run` with these settings. The weights of `class_weights` are left out: no option takes them."""
        named = [name for name in SETTINGS if self.is_set(name) and not isinstance(getattr(self, name), dict)]
        return " ".join(["finetune run", *map(self.as_option, named)])


SETTINGS = declared_settings(RunConfig)
"""Every setting by its name, in the order of `config.json`."""

CHANGES = (*("flip_vertical", "rotate", "rand_augment", "trivial_augment", "color_jitter", "erase", "mixup", "cutmix"),)
"""Settings that change training images at random, besides `augment`."""

READING = (
    *("data_dir", "npz_keys", "tfrecord_keys", "csv_columns", "multi_label", "label_separator", "test", "seed"),
    *("exclude", "background_class"),
)
"""Settings that, beside `data`, say how a data set is read, however many of its images are used."""

TTA = {
    "flip": "averaged with the mirror images",
    "five-crop": "averaged over the centre and four corners",
    "ten-crop": "averaged over the centre, four corners and their mirror images",
}
"""What each kind of test-time augmentation does to probabilities."""

RECIPE = ("resize_mode", "crop_fraction", "eval_recipe")
"""Settings that say how an image of another shape becomes one of the network's."""


def settings_with(role: Role) -> tuple[str, ...]:
    """The names of the settings that have `role`."""
    return tuple(name for name, setting in SETTINGS.items() if role in setting.roles)
