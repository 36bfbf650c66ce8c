"""`checkpoints/structures.json.gz` says of every catalogue row what its network is."""

import keras
import pytest

from checkpoints.catalog.lookup import CATALOG, find_row
from checkpoints.matching import structures
from finetune.backbone.file_names import weights_file_variables
from tools.structures import build, write

SAID = structures.structures()


def differences(names):
    return [name for name in names if build(find_row(name)) != list(SAID[name])]


def test_every_row_is_there_and_no_other():
    assert set(SAID) == {spec.id for spec in CATALOG}, "'make structures' writes the file anew"


@pytest.mark.slow
def test_some_rows_are_what_their_networks_are():
    assert not differences(["keras/mobilenet_0.25", "bundled/resnet_v1_demo"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_every_row_is_what_its_network_is(name):
    assert not differences([name]), "'make structures' writes the file anew"


def test_the_file_is_the_same_for_the_same_rows():
    rows = {name: SAID[name] for name in ("keras/mobilenet_0.25", "slim/mobilenet_v1_0.5")}
    packed = structures.encoded(rows)
    assert packed == structures.encoded(dict(reversed(rows.items())))
    assert packed[4:8] == b"\0\0\0\0", "no time in it"
    assert structures.decoded(packed) == rows


@pytest.mark.slow
def test_rows_that_are_not_built_anew_are_kept(tmp_path, capsys):
    demo = find_row("bundled/resnet_v1_demo")
    write(tmp_path / "s.gz", [demo], kept={**SAID, "slim/gone": ()})
    assert structures.decoded((tmp_path / "s.gz").read_bytes()) == SAID
    assert capsys.readouterr().err.split()[0] == demo.id


@pytest.mark.slow
def test_a_key_is_where_keras_saves_the_variable(tmp_path):
    import h5py

    model = keras.applications.MobileNet(alpha=0.25, weights=None, classes=3, input_shape=(32, 32, 3))
    model.save_weights(tmp_path / "m.weights.h5")
    keys = weights_file_variables(model)
    assert len(keys) == len(model.weights)
    with h5py.File(tmp_path / "m.weights.h5") as file:
        for key, variable in keys.items():
            assert (file[key][()] == variable.numpy()).all(), key
