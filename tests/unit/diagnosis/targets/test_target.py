"""The data of a model that is no run."""

from types import SimpleNamespace

import pytest

from finetune.diagnosis.targets.target import Data, check_classes
from finetune.errors import FinetuneError


@pytest.mark.parametrize(("outputs", "background"), [(7, True), (10, False)])
def test_a_model_has_as_many_outputs_as_the_data_has_classes(outputs, background):
    data = Data(SimpleNamespace(source="cifar6", class_names=("a", "b", "c", "d", "e", "f")), None)
    with pytest.raises(FinetuneError, match=f"graph.meta has {outputs} outputs, but cifar6 has 6 classes") as raised:
        check_classes("graph.meta", outputs, data)
    assert ("for a background class, number the data's labels from 1" in str(raised.value)) == background
    check_classes("graph.meta", 6, data)
