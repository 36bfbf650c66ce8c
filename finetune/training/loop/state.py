"""Everything a resumed run needs to continue as an unbroken one would."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import DEFAULTS, RunConfig, settings_with
from finetune.errors import FinetuneError
from finetune.files import read_arrays, write_arrays

_NOTES = "notes"
_ADVICE = "delete it, and the run can be resumed from its first epoch"


@dataclass(frozen=True)
class State:
    """Arrays of the model and the optimizer, the progress through the data, and the config (JSON values)."""

    arrays: dict[str, np.ndarray]
    progress: dict[str, Any]
    settings: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write an `.npz`, atomically."""
        text = json.dumps({"progress": self.progress, "settings": self.settings}).encode()
        write_arrays(path, {_NOTES: np.frombuffer(text, np.uint8), **self.arrays})

    @classmethod
    def load(cls, path: Path) -> "State":
        """Read it back. FinetuneError where the file is damaged; nothing in it is ever unpickled."""
        arrays = read_arrays(path, advice=_ADVICE)
        try:
            notes = json.loads(arrays.pop(_NOTES).tobytes())
            return cls(arrays, dict(notes["progress"]), dict(notes["settings"]))
        except (ValueError, KeyError, TypeError):
            raise FinetuneError(f"{path} is damaged (it has no record of the progress): {_ADVICE}") from None

    def check_settings(self, config: RunConfig) -> None:
        """FinetuneError where `config` differs from the interrupted run's: the resumed run would repeat neither."""
        for name, value in json.loads(json.dumps(config.to_json())).items():
            # A setting that was added after the state was written had its default then.
            then = self.settings.get(name, json.loads(json.dumps(DEFAULTS.get(name))))
            if name not in settings_with("may_change_on_resume") and value != then:
                raise FinetuneError(
                    f"'{name}' is {value!r} in config.json, but the run was interrupted with {then!r}: put it back, or "
                    "start a new run with 'finetune run --config'"
                )


def taken_out(variables: list[Any], prefix: str) -> dict[str, np.ndarray]:
    """A copy of every variable, named `prefix/position`: dropout's seed of a model, the step count of an optimizer
    included."""
    return {f"{prefix}/{index}": np.array(variable) for index, variable in enumerate(variables)}


def put_back(variables: list[Any], arrays: dict[str, np.ndarray], prefix: str) -> None:
    """Assign the arrays named `prefix/position`. FinetuneError where their number, shape or dtype differs."""
    for index, variable in enumerate(variables):
        value = arrays.get(f"{prefix}/{index}")
        if value is None or value.shape != tuple(variable.shape) or value.dtype != np.array(variable).dtype:
            raise FinetuneError(
                f"the saved state does not fit the run's {prefix} ({variable.path}): the data or this program has "
                f"changed since; {_ADVICE.replace('it', 'state.npz', 1)}"
            )
        variable.assign(value)
