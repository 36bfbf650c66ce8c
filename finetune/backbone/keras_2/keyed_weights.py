"""The weights in a `.keras` file of Keras 2: groups named by a layer's place in the model.

Versions and systems spell the groups differently: `layers/conv2d`, `_layer_checkpoint_dependencies/conv2d` up to
Keras 2.14, and with backslashes what was saved on Windows.
"""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from checkpoints.formats.hdf5_copy import WEIGHTS


def load_keyed(path: Path, model: Any) -> None:
    """Assign the weights of a `.keras` file to `model`. Raises what Keras and h5py raise."""
    from tf_keras.src.saving import saving_lib

    with opened_weights(path) as file:
        saving_lib._load_state(model, _Groups(file), None, "", visited_trackables=set())


@contextmanager
def opened_weights(path: Path) -> Iterator[Any]:
    """The open HDF5 file of the weights in a `.keras` file."""
    with (
        zipfile.ZipFile(path) as zipped,
        io.BytesIO(zipped.read(WEIGHTS)) as content,
        h5py.File(content, "r") as file,
    ):
        yield file


def keyed_places(file: Any, model: Any) -> dict[int, str]:
    """The dataset of each variable of the model's layers, by `id(variable)`."""
    from tf_keras.src.saving import saving_lib

    groups, own = _Groups(file), dict[int, str]()
    for layer in model._flatten_layers():
        if hasattr(layer, "moving_mean"):
            variables = layer._trainable_weights + layer._non_trainable_weights

            def save(place: Any, variables: Any = variables) -> None:
                own.update({id(one): f"{place.where}/{index}" for index, one in enumerate(variables)})

            layer.save_own_variables = save  # in place of the method, which would write the values
    saving_lib._save_state(model, groups, None, "", visited_trackables=set())
    return own


class _Group(dict[str, Any]):
    """What a layer saves into. where: the name of its group of variables in the file."""

    where = ""


class _Groups:
    """The groups of a file by the names that Keras asks for today: a store for `saving_lib`."""

    def __init__(self, file: Any) -> None:
        self._file, self._names = file, dict[str, str]()
        file.visit(self._note)

    def _note(self, name: str) -> None:
        plain = name.replace("\\", "/").replace("_layer_checkpoint_dependencies", "layers")
        self._names[plain] = name

    def get(self, path: str) -> Any:
        """The variables of a layer, to read; nothing where the file has none."""
        where = self._names.get(f"{path}/vars" if path else "vars")
        return self._file[where] if where else {}

    def make(self, path: str) -> _Group:
        """The place of a layer's variables, to be told where it is."""
        group = _Group()
        group.where = self._names.get(f"{path}/vars" if path else "vars", "")
        return group
