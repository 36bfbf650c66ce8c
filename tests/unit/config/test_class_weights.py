"""`--class-weights FILE`: tables and JSON objects, and one error for each thing that can be wrong."""

import math

import pytest

from finetune.config import RunConfig, check_config, with_weights_read
from finetune.errors import WrongUse


def read(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return with_weights_read(RunConfig("x", class_weights=str(tmp_path / name))).class_weights


def test_a_file_becomes_its_numbers(tmp_path):
    expected = {"rosé, wild": 2.5, "daisy": 0.0}
    assert read(tmp_path, "a.csv", '\ufeffClass, weight\n"rosé, wild", 2.5\n\ndaisy,0\n') == expected
    assert read(tmp_path, "b.csv", '"rosé, wild",2.5\ndaisy,0') == expected
    assert read(tmp_path, "c.json", ' {"rosé, wild": 2.5, "daisy": 0}') == expected
    for already in ("balanced", expected, None):
        assert with_weights_read(RunConfig("x", class_weights=already)).class_weights == already


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "rose,2\ndaisy,-1", "weight of class 'daisy' is -1.0 (line 2): expected a number from 0 on"),
        ("a.csv", "rose,2\ndaisy,much", "weight of class 'daisy' is 'much' (line 2)"),
        ("a.csv", "rose,nan", "weight of class 'rose' is nan (line 1)"),
        ("a.csv", "rose,2\nrose,3", "class 'rose' comes twice (line 2)"),
        ("a.csv", "rose,2,3", "line 1 has 3 columns: expected lines of class,weight"),
        ("a.csv", "rose,0\ndaisy,0", "every weight is 0"),
        ("a.csv", "", "it has no class"),
        ("a.json", '{"rose": 1, "rose": 2}', "class 'rose' comes twice (member 2)"),
        ("a.json", '{"rose": "2"}', "weight of class 'rose' is '2' (member 1)"),
        ("a.json", '{"rose": true}', "weight of class 'rose' is True (member 1)"),
        ("a.json", '[["rose", 2]]', "is no JSON object"),
        ("a.json", "rose,2", "is not JSON"),
    ],
)
def test_one_error_for_a_file_that_will_not_do(tmp_path, name, text, words):
    with pytest.raises(WrongUse) as refused:
        read(tmp_path, name, text)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"--class-weights {tmp_path / name}")


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "latin").write_bytes(b"ros\xe9,1")
    for name, reason in (("nowhere", "No such file"), (".", "Is a directory"), ("latin", "it is not UTF-8 text")):
        with pytest.raises(WrongUse, match=rf"cannot be read \({reason}.*\): give balanced, or the path"):
            with_weights_read(RunConfig("x", class_weights=str(tmp_path / name)))


@pytest.mark.parametrize("value", [{"a": -1}, {"a": "1"}, {"a": math.inf}, {"a": 0}, {1: 1}, {"a": True}, [1], "", 1])
def test_values_from_python_are_checked(value):
    with pytest.raises(WrongUse, match=r"--class-weights .* is not valid: expected balanced, the path of a"):
        check_config(RunConfig("x", class_weights=value))
    check_config(RunConfig("x", class_weights={"a": 1, "b": 0.5}))


def test_the_focal_parameter_needs_the_focal_loss():
    with pytest.raises(WrongUse, match=r"--focal-gamma 3 .*the loss is cross-entropy: give --loss focal too"):
        check_config(RunConfig("x", focal_gamma=3))
    check_config(RunConfig("x", focal_gamma=3, loss="focal"))
