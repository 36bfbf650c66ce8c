"""The model to examine as the user names it: all options of `diagnose-bn` and `recalibrate-bn` that open it."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from finetune.config import ResizeMode
from finetune.diagnosis.rules.rule import Commands
from finetune.text import ImageSize


@dataclass(frozen=True)
class TargetOptions:
    """None, "" or () where an option was not given.

    target: a run, or a model's file. backbone, checkpoint, ema: a network of the catalogue with weights of one's own,
    or their moving averages. meta_graph to feed: a TF1 graph. output: one of a model's several. architecture: the
    model whose weights `target` holds. data: as in `finetune run`. preprocess: a name, or `module:function`. image_size
    in px, resize_mode to eval_recipe: as in `finetune run`. bn_decay: the share of the old moving value that training
    kept, if known. model_only: no images are needed but for their classes, if they are given.
    """

    target: Path | None = None
    backbone: str | None = None
    checkpoint: Path | None = None
    ema: bool = False
    meta_graph: Path | None = None
    input: str | None = None
    logits: str | None = None
    is_training: str | None = None
    input_layout: str | None = None
    feed: tuple[str, ...] = ()
    output: str | None = None
    architecture: Path | None = None
    data: str | None = None
    data_dir: Path | None = None
    npz_keys: str | None = None
    tfrecord_keys: str | None = None
    csv_columns: str | None = None
    multi_label: bool = False
    label_separator: str | None = None
    preprocess: str | None = None
    image_size: ImageSize | None = None
    resize_mode: ResizeMode | None = None
    crop_fraction: float | None = None
    eval_recipe: str | None = None
    batch_size: int | None = None
    source_checkpoint: Path | None = None
    bn_decay: float | None = None
    model_only: bool = False

    def commands(self, backbone: str | None = None, *, unwritable: str = "") -> Commands:
        """The commands of a remedy: one that names this target again, and one that trains `backbone` on its data, from
        the source's weights where they are known. `unwritable`: why no copy of the target can be written."""
        data = self._typed("data", "data_dir", "npz_keys", "tfrecord_keys", "csv_columns", "label_separator")
        data += ["--multi-label"] if self.multi_label else []
        data += self._typed("image_size", "resize_mode", "crop_fraction", "eval_recipe")
        words = [str(self.target)] if self.target else []
        words += self._typed("backbone", "checkpoint", "meta_graph", "input", "logits", "is_training", "input_layout")
        words += self._typed("output", "architecture", "source_checkpoint", "bn_decay")
        words += [*data, *self._typed("batch_size"), *(["--ema"] if self.ema else [])]
        words += [word for value in self.feed for word in ("--feed", value)]
        retrain = (
            ["finetune", "run", "--backbone", backbone, *self._typed("output"), *data, *self._typed("preprocess")]
            if backbone
            else []
        )
        if backbone and self.source_checkpoint and self.backbone:
            retrain += ["--checkpoint", str(self.source_checkpoint)]
        return Commands(shlex.join(words), shlex.join(retrain), self.preprocess or "", unwritable)

    def _typed(self, *names: str) -> list[str]:
        """The options of these names that were given, as words of a command."""
        given = {f"--{name.replace('_', '-')}": getattr(self, name) for name in names}
        return [word for option, value in given.items() if value is not None for word in (option, str(value))]
