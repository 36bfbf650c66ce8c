"""Everything a run directory says, read once; no TensorFlow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import config as configs
from finetune.config import RunConfig
from finetune.errors import FinetuneError
from finetune.rundir import RunDir, kept_validation


@dataclass(frozen=True, eq=False)
class Record:
    """One run. `name` tells it from the others of a report; what a run has not written is empty, `result` None.

    epochs: the rows of metrics.jsonl. stages: the freeze plan, a row a stage. weights: what was loaded, in figures.
    diagnosis: bn.json.
    """

    name: str
    run: RunDir
    config: RunConfig
    data: dict[str, Any]
    environment: dict[str, Any]
    weights: dict[str, Any]
    stages: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    result: dict[str, Any] | None
    diagnosis: dict[str, Any] | None

    @property
    def class_names(self) -> list[str]:
        """Of label 0 and up."""
        names = (self.result or self.data).get("class_names", [])
        return [str(name) for name in names]

    @property
    def test(self) -> float | None:
        """Test accuracy with `is_training=False`."""
        return None if self.result is None else float(self.result["test"]["is_training_false"]["accuracy"])

    @property
    def examples(self) -> int:
        """Test images, 0 where the run has not been tested."""
        return 0 if self.result is None else int(self.result["test"]["is_training_false"]["examples"])

    @property
    def validation(self) -> float | None:
        """Validation accuracy of the weights that were kept: with `patience` the best epoch's, else the last one's."""
        return kept_validation(self.epochs, patience=self.config.patience is not None)

    @property
    def images_per_second(self) -> float | None:
        """Over all epochs, the making of the batches and the first step's tracing included."""
        seconds = sum(row.get("seconds", 0.0) for row in self.epochs)
        images = sum(row.get("seconds", 0.0) * row.get("images_per_second", 0.0) for row in self.epochs)
        return images / seconds if seconds else None


def read(path: Path, *, name: str | None = None) -> Record:
    """The run in directory `path`. FinetuneError where there is none, or one of its files is damaged."""
    run = RunDir.open(path)
    where = run.path / "config.json"
    result = run.read("result.json", "test", "bn", "proof", "class_names") if run.status == "done" else None
    if result is not None:
        _check_result(run, result)
    return Record(
        name=name or path.name or str(path.absolute().name),
        run=run,
        config=configs.from_mapping(configs.read_file(where), where=str(where)),
        data=_optional(run, "data.json"),
        environment=_optional(run, "environment.json"),
        weights=_weights(_optional(run, "load.json")),
        stages=_optional(run, "freeze.json", "stages").get("stages", []),
        epochs=run.epochs(),
        result=result,
        diagnosis=_optional(run, "bn.json", "verdict", "layers") or None,
    )


def _check_result(run: RunDir, result: dict[str, Any]) -> None:
    try:
        for way in ("is_training_false", "is_training_true"):
            float(result["test"][way]["accuracy"])
        if int(result["test"]["is_training_false"]["examples"]) < 1 or not result["class_names"]:
            raise ValueError("no test images or no classes")
    except (KeyError, TypeError, ValueError) as error:
        raise FinetuneError(
            f"{run.path / 'result.json'} does not hold what a finished run writes ({error}): it is damaged; restore it "
            "from a copy, or repeat the run"
        ) from None


def _optional(run: RunDir, name: str, *keys: str) -> dict[str, Any]:
    return run.read(name, *keys) if (run.path / name).is_file() else {}


def _weights(load: dict[str, Any]) -> dict[str, Any]:
    if not load:
        return {}
    ignored = load.get("ignored", {})
    return {
        **{name: load.get(name) for name in ("path", "kind", "sha256")},
        "assigned": len(load.get("assigned", [])),
        "ignored": {reason: len(names) for reason, names in ignored.items()},
    }
