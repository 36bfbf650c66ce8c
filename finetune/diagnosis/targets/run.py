"""A run directory, or a `.keras` file in one."""

import errno
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.backbone import published_preprocessing, save_stock
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.targets.options import TargetOptions
from finetune.diagnosis.targets.target import Data, Target, read_history
from finetune.errors import WrongUse
from finetune.runs.directory import made_from
from finetune.runs.model import TrainedModel, load_snapshot, open_run


def open_run_target(request: TargetOptions) -> Target:
    """Open the run's own model, or another file in its directory, on the run's own data.

    `request.preprocess` replaces the run's preprocessing. The source's statistics are those the run kept, or those of
    `request.source_checkpoint`. `bn.json` is written for the run's own model, unless the run may only be read.
    """
    path = Path(str(request.target))
    known = ("data", "image_size", "resize_mode", "crop_fraction", "eval_recipe", "batch_size", "bn_decay")
    given = [name for name in known if getattr(request, name) is not None]
    if given:
        raise WrongUse(
            f"--{given[0].replace('_', '-')}: {path} is a run, whose config.json says what it was: leave it out"
        )
    opened = open_run(path, data_dir=request.data_dir)
    trained = opened.trained
    subject = trained.subject
    history = read_history(request.source_checkpoint, subject, _facts(trained))
    if request.source_checkpoint is None:
        history = replace(history, source=load_snapshot(trained.run))

    def record(report: dict[str, Any]) -> None:
        if trained.path != trained.run.model_path:
            return
        try:
            trained.run.write("bn.json", report)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise

    return Target(
        name=str(path),
        subject=subject,
        data=Data(opened.dataset, opened.config, request.preprocess),
        commands=Commands(
            shlex.quote(str(path)),
            f"finetune run --config {shlex.quote(str(_repeated(trained.run.path / 'config.json')))}",
            request.preprocess or "",
        ),
        write=lambda out: save_stock(trained.model, out),
        copy=trained.path.with_name(f"{trained.path.stem}-recalibrated.keras"),
        history=history,
        record=record,
    )


def _repeated(config: Path) -> Path:
    """The config that repeats the training: that of an average is its first run's."""
    return next((Path(run) / "config.json" for run in made_from(config)), config)


def _facts(trained: TrainedModel) -> Facts:
    """What the run's records say about how the model came to be."""
    config = trained.config
    from_files = None if config.from_scratch else published_preprocessing(config.backbone)
    facts = Facts(batch_size=config.batch_size, expected_preprocessing=from_files)
    if trained.run.status != "done":
        return facts
    result = trained.run.read("result.json", "bn", "proof")
    bn = result["bn"]
    policies = {name for row in trained.run.read("freeze.json", "stages")["stages"] for name in row["bn"]}
    recalibrated = bn["recalibrated"] or trained.path != trained.run.model_path
    return replace(
        facts,
        decay=None if recalibrated else bn["decay"],
        updates=None if recalibrated else bn["updates"],
        updates_enabled=config.bn_updates == "on",
        zero_debias=config.bn_zero_debias,
        trained_with="batch" if policies & {"train", "stats"} else "moving",
        weights_moved=result["proof"]["moving_variables"] > len(result["proof"]["unmoved"]),
    )
