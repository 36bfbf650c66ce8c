"""Data looked at before it is trained on: read as a run reads it, and its labels judged by a backbone's features."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune._version import install_line
from finetune.config import READING, RunConfig, as_in_a_file, from_mapping
from finetune.data.check.kinds import CERTAIN, WORDS, Kind
from finetune.data.dataset import Dataset
from finetune.data.load_data import absolute, load_whole
from finetune.errors import WrongUse
from finetune.evaluation import linear_probe
from finetune.reporting.data_check import SHARE, DataReport, Probe, check_dataset
from finetune.reporting.heat_maps import check_folder
from finetune.text import ImageSize
from finetune.training.display import Display


@dataclass(frozen=True)
class CheckOptions:
    """How data is checked.

    Attributes:
        backbone: Whose features judge labels and drift. `"none"`: neither is judged. None: the most accurate small row
            of the catalogue whose weights are on this machine.
        checkpoint: The file with its weights, where they are not the published ones.
        image_size: Of the features, in px: one number for squares. None: that of a run.
        images: Features of so many images, evenly drawn, are computed. Everything else is done with all.
        suspects: At most this share of the labels, in [0, 1], is called suspect.
        leave_out: The kinds of findings that the list for `--exclude` leaves out.
        pictures: So many of each finding are kept for the page.
    """

    backbone: str | None = None
    checkpoint: Path | None = None
    image_size: ImageSize | None = None
    images: int = 20_000
    suspects: float = SHARE
    leave_out: Collection[Kind] = CERTAIN
    pictures: int = 24

    def __post_init__(self) -> None:
        if unknown := set(self.leave_out) - set(WORDS):
            raise WrongUse(f"--leave-out {min(unknown)}: expected some of {', '.join(WORDS)}")
        if not 0 <= self.suspects <= 1:
            raise WrongUse(f"--suspects {self.suspects}: expected a share from 0 to 1")


def settings_of(data: str, given: Mapping[str, Any]) -> tuple[RunConfig, CheckOptions]:
    """What is read, and how it is checked, from the name or path of the data and further options by their names."""
    known = (*READING, *CheckOptions.__dataclass_fields__)
    if unknown := given.keys() - set(known):
        raise WrongUse(f"unknown option {min(unknown)}: expected some of {', '.join(known)}")
    read = as_in_a_file({name: value for name, value in given.items() if name in READING})
    read |= {"backbone": "", "data": absolute(data), "skip_bad_images": True}
    options = {name: value for name, value in given.items() if name not in READING}
    if options.get("checkpoint") is not None:
        options["checkpoint"] = Path(options["checkpoint"])
    if isinstance(options.get("leave_out"), str):
        options["leave_out"] = (options["leave_out"],)
    return from_mapping(read, where="the options"), CheckOptions(**options)


def check_data(
    config: RunConfig, options: CheckOptions, *, out: Path | None = None, display: Display | None = None
) -> DataReport:
    """Look at all images of `config.data`, read with its settings `config.READING`.

    out: a new folder for the page, the JSON and the list of images to leave out. Raises WrongUse for options that do
    not fit, FinetuneError for data that cannot be read at all.
    """
    display = display or Display()
    if out is not None:
        check_folder(out, "--out")
    unprobed = _why_not_probed(options)
    dataset = load_whole(config, progress=display.download, on_scan=display.on_scan)
    found = check_dataset(
        dataset,
        probe=unprobed or _probe(options, dataset, display),
        leave_out=options.leave_out,
        shown=options.pictures,
        on_image=display.on_scan,
    )
    if out is not None:
        found.write(out)
    return found


def _why_not_probed(options: CheckOptions) -> str | None:
    if options.backbone == "none":
        return "--backbone none"
    if not linear_probe.is_available():
        install = install_line("data")
        if options.backbone is not None:
            raise WrongUse(f"--backbone {options.backbone}: suspect labels and drift need scikit-learn: {install}")
        return f"scikit-learn is not installed: {install}"
    return None


def _probe(options: CheckOptions, dataset: Dataset, display: Display) -> Probe | str:
    """What computes features of `dataset`, or the reason why nothing does."""
    from finetune.training.feature_cache import image_features  # it imports TensorFlow, which the rest does not need

    found = image_features.find(
        options.backbone,
        checkpoint=options.checkpoint,
        image_size=options.image_size,
        side=min(dataset.train.images.shape[1:3]),
    )
    if found is None:
        return (
            "no weights of a small backbone are on this machine: give --backbone mobilenet_v1_1.0, which fetches 17 "
            "MB, or any other with --checkpoint"
        )
    steps = image_features.Progress(display.say, display.features, lambda: False, display.warn)
    return Probe(
        lambda splits: found.features(splits, steps, download=display.download),
        f"{found.spec.id} at {found.image_size} px",
        options.images,
        options.suspects,
    )
