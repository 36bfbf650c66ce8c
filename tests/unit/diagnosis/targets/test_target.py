"""The data of a model that is no run."""

from types import SimpleNamespace

import numpy as np
import pytest

from finetune.diagnosis.targets.options import TargetOptions
from finetune.diagnosis.targets.target import Data, check_classes, read_data
from finetune.errors import FinetuneError


@pytest.mark.parametrize(("outputs", "background"), [(7, True), (10, False)])
def test_a_model_has_as_many_outputs_as_the_data_has_classes(outputs, background):
    data = Data(SimpleNamespace(source="cifar6", class_names=("a", "b", "c", "d", "e", "f")), None)
    with pytest.raises(FinetuneError, match=f"graph.meta has {outputs} outputs, but cifar6 has 6 classes") as raised:
        check_classes("graph.meta", outputs, data)
    assert ("for a background class, number the data's labels from 1" in str(raised.value)) == background
    check_classes("graph.meta", 6, data)


def test_the_model_is_named_where_its_data_has_other_classes(tmp_path):
    labels = np.arange(40) % 4
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    options = TargetOptions(target=tmp_path / "m.keras", data=str(tmp_path / "d.npz"), preprocess="unit")
    with pytest.raises(
        FinetuneError, match=r"^m.keras has 6 outputs, but .*d.npz: x_train, x_test has 4 classes: give"
    ):
        read_data(options, "m.keras", 6, image_size=8, preprocess=None)
