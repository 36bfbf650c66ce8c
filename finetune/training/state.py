"""Everything a resumed run needs to go on as if it had never stopped."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune.errors import FinetuneError

_PROGRESS = "progress"


@dataclass(frozen=True)
class State:
    """Arrays of the model and the optimizer, and where in the data the run stands (JSON values)."""

    arrays: dict[str, np.ndarray]
    progress: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write an `.npz` (the caller makes it atomic)."""
        text = json.dumps(self.progress).encode()
        with open(path, "wb") as file:
            arrays: dict[str, Any] = {_PROGRESS: np.frombuffer(text, np.uint8), **self.arrays}
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> "State":
        """Read it back. FinetuneError where the file is damaged; nothing in it is ever unpickled."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            progress = json.loads(arrays.pop(_PROGRESS).tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise FinetuneError(
                f"{path} cannot be read ({error}): the run cannot be resumed; start it again in a new --run-dir"
            ) from None
        return cls(arrays, progress)


def model_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Every variable of the model, dropout's seed included, by position."""
    return {f"model/{index}": np.array(variable) for index, variable in enumerate(model.variables)}


def optimizer_arrays(optimizer: keras.optimizers.Optimizer) -> dict[str, np.ndarray]:
    """Every variable of the optimizer, its step count included, by position."""
    return {f"optimizer/{index}": np.array(variable) for index, variable in enumerate(optimizer.variables)}


def put_back(variables: list[Any], arrays: dict[str, np.ndarray], prefix: str) -> None:
    """Assign the arrays named `prefix/position`; FinetuneError where they are another model's."""
    for index, variable in enumerate(variables):
        value = arrays.get(f"{prefix}/{index}")
        if value is None or value.shape != tuple(variable.shape):
            raise FinetuneError(
                f"the saved state does not fit the run's {prefix} ({variable.path}): was config.json changed? "
                "Start the run again in a new --run-dir"
            )
        variable.assign(value)
