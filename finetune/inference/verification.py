"""Prove a file of weights: it fills its network exactly, and the network computes the same outputs as the original."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from checkpoints import store
from checkpoints.catalog.lookup import BackboneSpec, find_row
from checkpoints.errors import UnknownBackbone
from checkpoints.formats import open_checkpoint
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.matching.fit import Fit, best_fit, fit_row
from checkpoints.matching.pairing import of_head, pair
from checkpoints.matching.structures import structures
from checkpoints.matching.transfer import LoadReport
from finetune.backbone import load_backbone
from finetune.backbone.freezing import LayerInfo, layer_infos
from finetune.batchnorm.statistics import KerasSubject
from finetune.config import RunConfig
from finetune.data import pipeline
from finetune.data.dataset import Split
from finetune.data.geometry import geometry_of
from finetune.data.image_files import read_images
from finetune.data.lazy import Progress
from finetune.data.preprocessing import find_preprocessing
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation.evaluator import Evaluation, Evaluator
from finetune.inference import reference
from finetune.runs.request import with_recipe

TOLERANCE = 1e-4
"""Largest difference from the original, as a share of its outputs' scale. Float32 rounding alone stays a factor of 100
below it."""

_IMAGENET_CLASSES = 1000
_NAME = re.compile(r"(\d{3})_.*\.(jpe?g|png)$", re.IGNORECASE)
_ENDINGS = (".ckpt", ".h5", ".keras", ".tar.gz", ".tgz")
_GENERATED, _MOST_COMPARED = 4, 32
"""How many images the two networks are compared on: that many generated ones, or at most that many photos."""


@dataclass(frozen=True)
class Agreement:
    """A network of this package compared with the original, on the same images.

    name: the library that built the original. outputs: `logits` or `features`. images: how many, of what kind.
    difference: the largest absolute one. scale: the largest absolute output of the original.
    """

    name: str
    outputs: str
    images: str
    difference: float
    scale: float

    @property
    def share(self) -> float:
        """The difference as a share of the scale."""
        return self.difference / self.scale if self.scale else float("nan")

    @property
    def holds(self) -> bool:
        """Whether it is within `TOLERANCE`; NaN is not."""
        return self.difference == 0 or self.share <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """For `backbones verify --json`."""
        return {**asdict(self), "share": self.share, "tolerance": TOLERANCE, "agrees": self.holds}


@dataclass(frozen=True)
class Verification:
    """What was loaded, how it compares with the original, and the score on photos where there were any.

    agreement: None where there is no original to run; `no_reference` then is the reason.
    """

    spec: BackboneSpec
    report: LoadReport
    agreement: Agreement | None
    no_reference: str
    photos: Evaluation | None

    def to_json(self) -> dict[str, Any]:
        """For `backbones verify --json`."""
        photos = self.photos
        scores = photos and {"examples": photos.examples, "top1": photos.correct, "top5": photos.correct_top5}
        return {
            "backbone": self.spec.id,
            "load": self.report.to_json(),
            "reference": self.agreement.to_json() if self.agreement else None,
            "no_reference": self.no_reference or None,
            "photos": scores,
        }

    def summary(self) -> str:
        """The same in a few lines for people."""
        lines = [f"{self.spec.id}: {self.report.summary()}", f"reference: {self.no_reference}"]
        if (found := self.agreement) is not None:
            lines[1] = (
                f"reference: {found.name}: largest difference {found.difference:.2g} in {found.outputs} up to "
                f"{found.scale:.4g}, {found.share:.1e} of their scale, on {found.images}"
            )
        if self.photos is not None:
            lines.append(
                f"photos: top-1 {self.photos.correct}/{self.photos.examples}, "
                f"top-5 {self.photos.correct_top5}/{self.photos.examples}"
            )
        return "\n".join(lines)

    def check(self) -> None:
        """Raise FinetuneError where the outputs differ from the original's by more than `TOLERANCE`."""
        if self.agreement is not None and not self.agreement.holds:
            raise FinetuneError(
                f"{self.spec.id} with {self.report.path} is not what {self.agreement.name} computes: the outputs "
                f"differ by {self.agreement.share:.1e} of their scale, expected at most {TOLERANCE:g}; do not trust "
                "results with it, and report this as a defect"
            )


def verify(
    name: str,
    *,
    checkpoint: Path | None = None,
    photos: Path | None = None,
    recipe: Mapping[str, Any] = MappingProxyType({}),
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Load weights strictly, run the original beside them where a library can build it, score `photos`.

    `name` is a catalogue row, or a path: then the row is the one that the file fits. The images compared are the photos
    (read, cropped and resized to the published size by the settings in `recipe`), or generated ones, always the same.
    The logits are compared for a file with its published head, or with a head of other classes under the published
    names; the features for any other file.
    `say` gets a line about what happens now, `progress` the bytes fetched so far and their total where it is known.
    Raises CheckpointError for files, WrongUse for --photos with a file that lacks the published head, FinetuneError
    where the original is tf_slim's and that is not installed.
    """
    spec, opened = _find(name, checkpoint, progress)
    entries = structures().get(spec.id, ())
    fit = fit_row(opened, spec, entries)
    if photos is not None:
        _check_photos(spec, opened, fit)
    own_classes = fit.head == "other" and any(of_head(spec, variable) for variable in opened.shapes)
    config = with_recipe(RunConfig(spec.id, **recipe), spec)
    if recipe and photos is None:
        raise WrongUse(f"{config.as_option(next(iter(recipe)))} is for photos: give them with --photos DIR")
    scored = (
        read_photos(photos, skip_bad=config.skip_bad_images).at(spec.image_size, geometry_of(config))
        if photos
        else None
    )
    outputs = fit.outputs if own_classes or fit.head == "published" else None
    loaded = load_backbone(
        spec, image_size=spec.image_size, checkpoint=opened, head="published" if fit.head == "published" else outputs
    )
    assert loaded.report is not None
    subject = KerasSubject(loaded.model)
    preprocessing = find_preprocessing(spec.preprocessing)
    agreement, reason, evaluation = None, "", None
    try:
        library = reference.name(spec, opened)
        pixels, images = _compared(scored, spec.image_size)
        inputs = np.asarray(preprocessing.apply(pixels))
        computed = np.asarray(subject.forward("moving")(inputs)[0])
        if say is not None:
            say(f"running the original ({library})")
        original = reference.run(spec, opened, inputs, outputs=outputs, names=pair(opened, spec, entries).names)
        difference, scale = float(np.abs(computed - original).max()), float(np.abs(original).max())
        agreement = Agreement(library, "logits" if outputs else "features", images, difference, scale)
    except reference.NoReference as no:
        reason = str(no)
    if scored is not None:
        form: dict[str, Any] = {"batch_size": 25, "image_size": spec.image_size, "geometry": geometry_of(config)}
        batches = pipeline.eval_batches(scored, **form, preprocessing=preprocessing)
        evaluation = Evaluator(subject, label_offset=spec.label_offset).evaluate(batches)
    return Verification(spec, loaded.report, agreement, reason, evaluation)


def _check_photos(spec: BackboneSpec, opened: Checkpoint, fit: Fit) -> None:
    """Raise WrongUse where the file has no logits of ImageNet's classes."""
    if spec.outputs < _IMAGENET_CLASSES:
        raise WrongUse(f"--photos are of ImageNet's classes, which {spec.id} was not published for: leave out --photos")
    if fit.head != "published":
        raise WrongUse(
            f"--photos: {opened.path} has not the {spec.outputs} published logits of {spec.id} "
            f"({'no head' if fit.outputs is None else f'{fit.outputs} outputs'}), which the ImageNet classes are read "
            "from; leave out --photos"
        )


def _find(name: str, checkpoint: Path | None, progress: Progress | None) -> tuple[BackboneSpec, Checkpoint]:
    """The catalogue row and the opened file for `name`, a row or a path, and the option --checkpoint."""
    try:
        spec = find_row(name)
    except UnknownBackbone:
        path = Path(name).expanduser()
        looks_like_path = name.startswith((".", "/", "~")) or name.endswith(_ENDINGS)
        if not (looks_like_path or path.exists() or Path(f"{path}.index").exists()):
            raise
        if checkpoint is not None:
            raise WrongUse(
                f"{name} is a file, and so is --checkpoint {checkpoint}: give the name of a backbone, or "
                "leave out --checkpoint"
            ) from None
        opened = open_checkpoint(path)
        spec = best_fit(opened).spec
        reference.check_installed(spec)
        return spec, opened
    reference.check_installed(spec)  # before a download
    return spec, open_checkpoint(checkpoint or store.locate(spec, with_head=True, progress=progress))


def _compared(scored: Split | None, side: int) -> tuple[np.ndarray, str]:
    """(uint8 `[n, side, side, 3]`, their description): photos, or patterns with edges and noise, always the same."""
    if scored is not None:
        images = scored.images[:_MOST_COMPARED]
        return images, f"{len(images)} photo{'s' if len(images) > 1 else ''}"
    rng = np.random.default_rng(0)
    patterns = []
    for _ in range(_GENERATED):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        pattern = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        patterns.append(np.clip(pattern + rng.integers(-24, 25, pattern.shape, np.int16), 0, 255))
    return np.stack(patterns).astype(np.uint8), f"{_GENERATED} generated images"


def layers_with_variables(spec: BackboneSpec) -> dict[str, list[LayerInfo]]:
    """Stage -> its layers that have variables, under the names patterns match; builds the graph, loads no weights."""
    loaded = load_backbone(spec, image_size=spec.image_size, from_scratch=True)
    rows: dict[str, list[LayerInfo]] = {}
    for info in layer_infos(loaded.model, loaded.stages, loaded.scope):
        rows.setdefault(info.stage, []).append(info)
    return rows


def read_photos(folder: Path, *, skip_bad: bool = False) -> Split:
    """Photos named `NNN_*.jpg`, NNN the ImageNet class, 0 to 999.

    Raises FinetuneError where there are none, or one cannot be read; with `skip_bad`, those are left out instead.
    """
    paths = [path for path in sorted(folder.glob("*")) if _NAME.match(path.name)]
    if not paths:
        raise FinetuneError(f"{folder} holds no photos: expected files named like 207_golden_retriever.jpg")
    found = read_images(paths, native=None, skip_bad=skip_bad)
    return Split(found.split.images, np.array([int(Path(name).name[:3]) for name in found.names], np.int64))
