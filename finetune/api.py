"""The functions that `import finetune` offers, one for each command, for models and data in memory as well.

Each loads what it needs when called, and prints nothing: the command line's remarks are the `notes` of the result.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.diagnosis import RECALIBRATION_IMAGES, TRAINING_IMAGES
from finetune.errors import UserError, WrongUse
from finetune.process import require_tensorflow
from finetune.text import in_python

if TYPE_CHECKING:
    import keras

    from finetune.diagnosis import doctor
    from finetune.diagnosis.measure import Extent
    from finetune.diagnosis.targets.opening import Target
    from finetune.evaluation.evaluator import Evaluation
    from finetune.inference.grad_cam import HeatMap
    from finetune.inference.predict import Classifications
    from finetune.reporting.data_check import DataReport


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What `diagnose_bn` found: the table in a terminal, the page in a notebook.

    Attributes:
        found: All that was measured, and the `verdict` with its sentence, evidence, runner-up and confidence.
        notes: How the model and the data were read.
    """

    found: "doctor.Diagnosis"
    notes: tuple[str, ...] = ()

    @property
    def cause(self) -> str:
        """The name of the cause, such as `healthy` or `statistics-lag`; `docs/diagnosis.md` explains each."""
        return self.found.verdict.cause

    @property
    def remedy(self) -> str | None:
        """What to do about it, None where there is nothing to repair."""
        return self.found.verdict.remedy

    @property
    def healthy(self) -> bool | None:
        """Whether BatchNorm is healthy, None where the images cannot show it."""
        return None if self.found.verdict.cause == "undetermined" else self.found.verdict.healthy

    @property
    def accuracy(self) -> dict[str, dict[str, float]]:
        """Split (`test`, `train`) -> mode (`is_training_false`, `is_training_true`, `recalibrated`) -> in [0, 1]."""
        return self.to_dict()["accuracy"]  # type: ignore[no-any-return]

    @property
    def loss(self) -> dict[str, dict[str, float]]:
        """The same, in nats per image."""
        return self.to_dict()["loss"]  # type: ignore[no-any-return]

    def to_dict(self) -> dict[str, Any]:
        """All of it, as `finetune diagnose-bn --json` prints it."""
        return self.found.to_json()

    def html(self) -> str:
        """The page of `finetune diagnose-bn --html`, with plots."""
        from finetune.reporting.pages import render_diagnosis_page

        return render_diagnosis_page(self.to_dict(), self.found.fed)

    def _repr_html_(self) -> str:
        from finetune.reporting.rendering import framed

        return framed(self.html())

    def __repr__(self) -> str:
        import io

        from finetune.cli.console import Console
        from finetune.cli.diagnosis_commands import show_diagnosis

        text = io.StringIO()
        # Not as a notebook has it, where each line would be displayed by itself.
        plain = Console(
            file=text, highlight=False, soft_wrap=True, width=1000, force_jupyter=False, force_terminal=False
        )
        show_diagnosis(self.found, plain)
        return "\n".join(line.rstrip() for line in (*self.notes, *text.getvalue().splitlines())).strip()


@dataclass(frozen=True)
class Recalibration:
    """What `recalibrate_bn` did.

    Attributes:
        before: Scores with `is_training=False`, on the test set where one was given, else on training images.
        after: The same afterwards.
        images: How many images gave the statistics.
        undone: Whether the new statistics made the model worse, and the old ones were put back.
    """

    before: "Evaluation"
    after: "Evaluation"
    images: int
    undone: bool


def diagnose_bn(
    model: Any = None,
    *,
    test: Any = None,
    train: Any = None,
    images: Any = TRAINING_IMAGES,
    preprocess: str | Callable[[Any], Any] | None = None,
    batch_size: int | None = None,
    checks: "Extent" = "default",
    session: Any = None,
    **options: Any,
) -> Diagnosis:
    """Is BatchNorm to blame? Score test and training images with moving, batch and recalibrated statistics.

    The model is as before afterwards, also after an error: its weights, its state and, of a session, its graph.

    Args:
        model: A `keras.Model`, a `tf_keras.Model`, or the path of a run or a model file.
        test: Of a model in memory: a pair of arrays, a batched `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch
            `DataLoader`, or a folder with a folder for each class. Each set is drawn once.
        train: Training images, in the same forms.
        images: At most so many of the training set are used, and of a test set whose length is not known.
        preprocess: What the pixels still need, a name such as `"unit"` or a function. None: nothing.
        batch_size: Images at once, by default as many as the data has in a batch, or 64.
        checks: Further checks: `"default"` where the figures call for them, `"quick"` for none, `"all"`.
        session: A `tf.compat.v1.Session` in place of a model. `images`, `logits` and, where the graph leaves a choice,
            `is_training` are then its tensors or their names; `feeds` gives other placeholders.
        **options: For a path: the other options of `finetune diagnose-bn`. For a model with several outputs: `output`.

    Raises:
        FinetuneError: The model has no BatchNorm, or the data does not fit it.
    """
    with _worded(), _opened(model, session, test, train, images, preprocess, batch_size, options) as target:
        from finetune.diagnosis import doctor

        most = TRAINING_IMAGES if session is not None else images
        return Diagnosis(doctor.diagnose(target, images=most, extent=checks), target.notes)


def recalibrate_bn(
    model: Any = None,
    train: Any = None,
    *,
    test: Any = None,
    images: Any = RECALIBRATION_IMAGES,
    preprocess: str | Callable[[Any], Any] | None = None,
    batch_size: int | None = None,
    session: Any = None,
    out: str | Path | None = None,
    **options: Any,
) -> Recalibration:
    """Measure the moving statistics of every BatchNormalization on training images, and put them into the model.

    The other arguments are those of `diagnose_bn`. A model in memory and a session's variables are changed in place.
    No weight changes. Statistics that make the model worse are not kept: in memory the old ones are put back, which
    the result says. Before and after are scored on the test set where one is given, else on training images.
    The copy of a path is written to `out`, by default beside the file; FinetuneError is raised if it would be worse."""
    with _worded(), _opened(model, session, test, train, images, preprocess, batch_size, options) as target:
        from finetune.diagnosis import doctor

        most = RECALIBRATION_IMAGES if session is not None else images
        if isinstance(model, str | Path | Run):
            written = doctor.recalibrate_bn(target, out=None if out is None else Path(out), images=most)
            return Recalibration(written.before, written.after, written.images, undone=False)
        before, after, used, worse = doctor.measure_again(target, images=most)
        if not worse:
            target.write(target.copy)
        return Recalibration(before, after, used, undone=worse)


def transfer(name: str, classes: int, **options: Any) -> "keras.Model":
    """A pretrained backbone with a new head as a `keras.Model` of stock layers, for your own `fit`.

    The model takes preprocessed float32 `[batch, height, width, channels]` and gives logits `[batch, classes]`: compile
    it with `from_logits=True`. It saves, loads and trains without this package.

    Args:
        name: A row of the catalogue (`finetune backbones list`), a Keras model file, a KerasHub preset, or a run.
        classes: The outputs of the new head.
        **options: The fields of `finetune.backbone.stock.StockOptions`: `freeze`, `bn_decay`, `checkpoint` and others.

    Raises:
        WrongUse: An option is unknown, or stock layers cannot do it.
        CheckpointError: The weights do not fit.
    """
    require_tensorflow()
    with _worded():
        from finetune.backbone.stock import StockOptions, transfer

        if unknown := options.keys() - StockOptions.__dataclass_fields__.keys():
            known = ", ".join(StockOptions.__dataclass_fields__)
            raise WrongUse(f"unknown argument {min(unknown)}: expected some of {known}")
        return transfer(name, classes, StockOptions(**options))


@dataclass(frozen=True, eq=False)
class Run:
    """A run of `finetune.run`, in its directory `path`."""

    path: Path

    @cached_property
    def result(self) -> dict[str, Any]:
        """What `result.json` says: accuracy, loss, BatchNorm, the proof of the freeze plan."""
        with _worded():
            from finetune.runs.directory import RunDir

            return RunDir.open(self.path).read("result.json")

    @cached_property
    def model(self) -> "keras.Model":
        """The trained model, of stock Keras layers: preprocessed images to logits."""
        with _worded():
            from finetune.backbone import open_model
            from finetune.runs.directory import RunDir

            return open_model(RunDir.open(self.path).model_path)

    def report(self, page: str | Path | None = None) -> dict[str, Any]:
        """The report of `finetune report --json`; with `page`, also written there as HTML, with pictures."""
        with _worded():
            from finetune.files import write_text
            from finetune.inference.grad_cam import heat_maps_of_run
            from finetune.reporting.pages import render_run_page
            from finetune.reporting.run_report import build_report
            from finetune.runs.model import examine_run

            score = lambda path: examine_run(path)[0].images  # noqa: E731
            shown = page is not None
            found = build_report([self.path], score=score, pictures=shown, explain=heat_maps_of_run if shown else None)
            if page is not None:
                write_text(Path(page), render_run_page(found.value, found.pictures, heat_maps=found.heat_maps))
            return found.value

    def predict(self, images: Any, *, top: int | None = None, thresholds: bool = False) -> "Classifications | Any":
        """The classes of images: of files and folders as `finetune predict`, or the probabilities, float64
        `[n, classes]`, of uint8 `[n, height, width, channels]` in memory, resized and prepared as in the run.
        thresholds: also decide each class of a file by the run's threshold for it (`result["thresholds"]`)."""
        with _worded():
            from finetune.inference.predict import PredictOptions, predict, predict_images

            if hasattr(images, "__array__"):
                return predict_images(self.path, images)
            return predict(self.path, _places(images), PredictOptions(top, thresholds))

    def explain(
        self, images: Any, *, explain_layer: str | None = None, explain_class: str | None = None, folder: Any = None
    ) -> "list[HeatMap]":
        """Where in each image the network found its class (Grad-CAM): of files and folders, or of uint8 images in
        memory, as `predict` takes them. explain_layer: by default the last one with maps. explain_class: by default the
        predicted one. folder: a new one, for a picture of each image, as by `finetune predict --explain`."""
        with _worded():
            from finetune.inference.predict import PredictOptions, predict, predict_pixels
            from finetune.reporting.heat_maps import check_folder, write_pictures

            if folder is not None:
                check_folder(Path(folder), "folder")
            options = PredictOptions(explain=True, explain_layer=explain_layer, explain_class=explain_class)
            in_memory = hasattr(images, "__array__")
            answer = (
                predict_pixels(self.path, images, options)
                if in_memory
                else predict(self.path, _places(images), options)
            )
            found = list(answer.heat_maps())
            if folder is not None:
                write_pictures(Path(folder), found)
            return found

    def evaluate(self, *, split: str = "test", statistics: str = "moving") -> "Evaluation":
        """As `finetune evaluate`."""
        return evaluate(self.path, split=split, statistics=statistics)

    def diagnose_bn(self, **options: Any) -> Diagnosis:
        """As `finetune diagnose-bn`, on the run's own data."""
        return diagnose_bn(self.path, **options)


def run(backbone: str, *, run_dir: str | Path | None = None, runs_dir: str | Path = "runs", **settings: Any) -> Run:
    """Fine-tune a backbone, as `finetune run`: every option of the command by keyword, with `_` for `-`.

    `finetune.run("resnet_v1_50", data="photos/", freeze=["*"], bn_decay=0.95)`.

    The run's directory is `run_dir`, or the next free name in `runs_dir`. `docs/settings.md` has all settings.

    Raises:
        FinetuneError: A setting is wrong (WrongUse), or the run failed.
        Interrupted: Ctrl-C or SIGTERM; `finetune.resume` continues the run.
    """
    require_tensorflow()
    with _worded():
        from finetune.config import as_in_a_file, from_mapping
        from finetune.training.start import start

        config = from_mapping({"backbone": str(backbone), **as_in_a_file(settings)}, where="the settings")
        found = start(config, run_dir=None if run_dir is None else Path(run_dir), runs_dir=Path(runs_dir))
        return Run(Path(found.path if hasattr(found, "path") else found.run))


def resume(path: str | Path) -> Run:
    """Continue an interrupted run; a finished one is left as it is."""
    require_tensorflow()
    with _worded():
        from finetune.training.start import resume as continued

        continued(Path(path))
        return Run(Path(path))


def open_run(path: str | Path) -> Run:
    """A finished run's directory, opened."""
    with _worded():
        from finetune.runs.directory import RunDir

        return Run(RunDir.open(Path(path)).path)


def average(runs: Iterable[Any], *, out: str | Path, method: str = "uniform") -> Run:
    """The average of finished runs (paths or `Run`), as `finetune average`, in the new run directory `out`."""
    require_tensorflow()
    with _worded():
        from finetune.training.average import average as averaged

        paths = [Path(one.path if isinstance(one, Run) else one) for one in runs]
        return Run(averaged(paths, Path(out), method=method).path)


def check_data(data: str | Path, *, out: str | Path | None = None, **options: Any) -> "DataReport":
    """Find damaged, duplicate and odd images, suspect labels, and drift, as `finetune data check`.

    Args:
        data: What `finetune.run(data=...)` takes.
        out: A new folder for the page, the JSON and the list of images for `exclude`.
        **options: The other options of the command, with `_` for `-`.

    Raises:
        WrongUse: An option is unknown or does not fit, or `out` is already there.
    """
    if options.get("backbone") != "none":
        require_tensorflow()
    with _worded():
        from finetune.training import data_report

        asked = data_report.settings_of(str(data), options)
        return data_report.check_data(*asked, out=None if out is None else Path(out))


def evaluate(
    path: str | Path, *, split: str = "test", statistics: str = "moving", data_dir: Any = None
) -> "Evaluation":
    """As `finetune evaluate`: a run on `test`, `validation` or `train`, with `moving` or `batch` statistics."""
    require_tensorflow()
    if statistics not in ("moving", "batch"):
        raise WrongUse(f"statistics is {statistics!r}: expected 'moving' or 'batch'")
    with _worded():
        from finetune.runs.model import evaluate_run

        place = None if data_dir is None else Path(data_dir)
        return evaluate_run(Path(path), data_dir=place, split=split, statistics=statistics)  # type: ignore[arg-type]


def _opened(model: Any, *given: Any) -> "AbstractContextManager[Target]":
    """What a caller named, as a target."""
    require_tensorflow()
    from finetune.diagnosis.targets.from_python import opened

    return opened(model.path if isinstance(model, Run) else model, *given)


def _places(images: Any) -> list[Path]:
    return [Path(one) for one in ([images] if isinstance(images, str | Path) else images)]


@contextmanager
def _worded() -> Iterator[None]:
    """Errors inside are worded for Python: options are arguments, and commands functions."""
    try:
        yield
    except UserError as error:
        said = in_python(str(error))
        if said == str(error):
            raise
        raise type(error)(said) from error.__cause__
