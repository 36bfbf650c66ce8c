"""TF checkpoints in which variables have other names than their own: what TensorFlow's Saver wrote is read."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from checkpoints.errors import CheckpointError
from checkpoints.formats import Checkpoint, open_checkpoint
from checkpoints.formats.aliases import averaged, plain, raw_statistics, with_initial
from checkpoints.formats.slim import everything, write_slim

v1 = tf.compat.v1


@pytest.fixture(scope="module")
def averages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Checkpoints by TF1: `both` holds weights and averages, `alone` averages only, `scoped` some made in a scope."""
    folder = tmp_path_factory.mktemp("averages")
    with tf.Graph().as_default(), v1.Session() as session:
        w = v1.get_variable("net/conv/weights", initializer=np.float32([1, 2]))
        mean = v1.get_variable("net/conv/BatchNorm/moving_mean", initializer=np.float32([3]), trainable=False)
        ema = tf.train.ExponentialMovingAverage(0.5)
        with v1.name_scope(""):
            update = ema.apply([w])
        session.run(v1.global_variables_initializer())
        session.run(w.assign([5, 6]))
        session.run(update)
        average = ema.average(w)
        v1.train.Saver().save(session, str(folder / "both"), write_meta_graph=False)
        v1.train.Saver({f"{w.op.name}/ExponentialMovingAverage": average, mean.op.name: mean}).save(
            session, str(folder / "alone"), write_meta_graph=False
        )
        v1.train.Saver({w.op.name: w, f"train/{w.op.name}/ExponentialMovingAverage": average}).save(
            session, str(folder / "scoped"), write_meta_graph=False
        )
        return folder, {"raw": session.run(w), "average": session.run(average)}


def test_averages_alone_are_read_as_the_variables(averages: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, values = averages
    opened = open_checkpoint(folder / "alone")
    assert sorted(opened.shapes) == ["net/conv/BatchNorm/moving_mean", "net/conv/weights"]
    np.testing.assert_array_equal(opened.read("net/conv/weights"), values["average"])
    assert "1 variables are in the file as moving averages only" in opened.remarks[0]
    assert raw_statistics(opened) == ["net/conv/BatchNorm/moving_mean"]
    assert sorted(everything(opened)) == ["net/conv/BatchNorm/moving_mean", "net/conv/weights/ExponentialMovingAverage"]
    assert averaged(opened).replaced == ("net/conv/weights",)


@pytest.mark.parametrize("name", ["both", "scoped"])
def test_where_both_are_there_the_weights_are_read_unless_averages_are_asked_for(
    name: str, averages: tuple[Path, dict[str, np.ndarray]]
) -> None:
    folder, values = averages
    opened = open_checkpoint(folder / name)
    np.testing.assert_array_equal(opened.read("net/conv/weights"), values["raw"])
    found = averaged(opened)
    np.testing.assert_array_equal(found.checkpoint.read("net/conv/weights"), values["average"])
    assert found.summary().startswith("1 variables read from their moving averages")
    assert not opened.remarks


def file(*names: str) -> Checkpoint:
    return plain(Checkpoint(Path("f"), "slim-v2", dict.fromkeys(names, (2,)), lambda name: np.float32([len(name), 0])))


def network(scope: str, variables: int = 30) -> list[str]:
    return [f"{scope}/conv{number}/weights" for number in range(variables)]


@pytest.mark.parametrize(
    ("first", "second"), [("tower_0", "tower_1"), ("clone_2", "clone_10"), ("net", "net_1"), ("a/model", "a/model_1")]
)
def test_of_towers_the_first_is_read(first: str, second: str) -> None:
    opened = file(*network(second), *network(first), "global_step")
    assert [*opened.shapes] == [*network(first), "global_step"]
    assert opened.remarks == (f"{first}/, {second}/ hold the same network: {first}/ is read",)


def test_units_and_different_networks_are_no_towers() -> None:
    for names in (
        [name for number in range(36) for name in network(f"resnet/unit_{number}", 15)],
        [*network("tower_0"), *network("tower_1", 31)],
        [*network("generator"), *network("discriminator")],
    ):
        assert len(file(*names).shapes) == len(names)


def test_without_averages_the_option_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"no moving averages.*leave out --from-averages"):
        averaged(file("a/weights"), "--from-averages")


def test_absent_statistics_start_at_0_and_1_and_are_not_in_the_file(tmp_path: Path) -> None:
    write_slim(tmp_path / "m", {"conv/weights": np.float32([1])})
    opened = with_initial(
        open_checkpoint(tmp_path / "m"),
        {"bn/moving_mean": np.zeros(2, np.float32), "bn/moving_variance": np.ones(2, np.float32)},
    )
    assert opened.read("bn/moving_mean").tolist() == [0, 0]
    assert opened.read("bn/moving_variance").tolist() == [1, 1]
    assert [*everything(opened)] == ["conv/weights"]
    assert "lacks 2 moving statistics" in opened.remarks[0]
