"""A run's settings as one value: running it again repeats the run."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Augment = Literal["resized-crop-flip", "crop-flip", "flip", "none"]


@dataclass(frozen=True)
class RunConfig:
    """What `finetune run` was asked for. None means "choose what suits the data"; `finetune.runs.defaults`
    replaces every None before the run starts, and the complete value is written to `config.json`.

    decays, fractions and probabilities lie in [0, 1); sizes are px; `examples` counts images.
    """

    backbone: str
    data: str = "cifar10"
    checkpoint: str | None = None
    data_dir: str | None = None
    from_scratch: bool = False
    examples: int | None = None
    few_shot: int | None = None
    test: float = 0.2
    validation: float = 0.05
    skip_bad_images: bool = False
    allow_overlap: bool = False
    image_size: int | None = None
    preprocess: str | None = None
    augment: Augment | None = None
    crop_padding: int | None = None
    rand_augment: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    dropout: float = 0.0
    hidden: int | None = None
    preset: str | None = None
    freeze: tuple[str, ...] = ()
    freeze_until: str | None = None
    bn: tuple[str, ...] = ()
    unfreeze_epochs: int | None = None
    head: Literal["swap", "keep"] = "swap"
    features: str | None = None
    bn_decay: float | Literal["auto"] = "auto"
    bn_epsilon: float | None = None
    bn_updates: Literal["on", "off"] = "on"
    bn_renorm: bool = False
    bn_zero_debias: bool = False
    bn_sync: bool = False
    recalibrate_at_end: bool | None = None
    diagnose_every: int | None = None
    tracker: tuple[str, ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    microbatch: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float | Literal["auto"] | None = None
    layer_decay: float | None = None
    weight_decay: float | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    ema: float | None = None
    tta: Literal["flip"] | None = None
    distribute: Literal["none", "mirrored", "multi-worker"] = "none"
    cache_features: Literal["auto", "on", "off"] = "auto"
    cache_precision: Literal["float32", "float16"] = "float32"
    cache_budget: str | None = None
    seed: int = 0
    deterministic: bool = False

    def to_json(self) -> dict[str, Any]:
        """For `config.json`."""
        return dataclasses.asdict(self)
