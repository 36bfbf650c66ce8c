import math

import numpy as np
import pytest

from finetune.batch.jobs import JobsFile
from finetune.batch.search_space import Choices, Interval, draw, read_space
from finetune.errors import WrongUse


@pytest.fixture
def space(tmp_path):
    def read(text, defaults=""):
        path = tmp_path / "night.toml"
        path.write_text(f'[defaults]\nbackbone = "resnet_v1_demo"\n{defaults}\n[search.space]\n{text}\n')
        file = JobsFile(path)
        return read_space(file, file.search["space"])

    return read


def test_intervals_and_choices(space):
    found = space(
        "lr = {low = 1e-4, high = 1e-2, log = true}\nepochs = {low = 2, high = 9, step = 3}\n"
        "rotate = {low = 5, high = 45}\n"
        'image-size = {low = 32, high = 96, step = 32}\naugment = ["flip", "none"]\nfreeze = [[], ["*", "head=train"]]'
    )
    assert found == {
        "learning_rate": Interval(1e-4, 1e-2, log=True),
        "epochs": Interval(2, 8, 3, whole=True),  # 11 would be beyond 9
        "rotate": Interval(5.0, 45.0),
        "image_size": Interval(32, 96, 32, whole=True),
        "augment": Choices(("flip", "none")),
        "freeze": Choices(((), ("*", "head=train"))),
    }
    assert found["freeze"].encode(["*", "head=train"]) == 1
    assert found["freeze"].encode(["block1"]) is None
    assert found["epochs"].encode(9) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no space: give [search.space] with a line for each setting"),
        ("epoch = {low = 1, high = 2}", "unknown key 'epoch' in [search.space] .*: did you mean 'epochs'"),
        ("lr = {low = 1e-4, high = 1e7}", "--learning-rate 10000000.0 in .* expected a number from 1e-12 to 1e"),
        ("dropout = {low = -1, high = 0.5}", "--dropout -1.0 in .* expected a number from 0 up to"),
        ("epochs = {low = 0, high = 3}", "--epochs 0 in .* expected a whole number from 1"),
        ('augment = ["flip", "nine"]', "--augment 'nine' in .* expected one of"),
        (
            "lr = 0.1",
            "lr in .* is 0.1: expected {low = .., high = ..} or a list of at least two choices; a fixed value",
        ),
        ("lr = [0.1]", "expected {low = .., high = ..} or a list of at least two choices"),
        ("lr = {low = 0.1}", "expected {low = .., high = ..}"),
        ("lr = {low = 0.1, high = 0.1}", "goes from 0.1 to 0.1: expected a low below the high"),
        ("lr = {low = nan, high = 0.1}", "expected a low below the high"),
        (
            "lr = {low = 0.1, high = 0.2, lgo = true}",
            "unknown key 'lgo' in lr in .*expected low, high, and maybe step or log",
        ),
        ("lr = {low = 0.1, high = 0.2, log = 1}", "log of lr .* is 1: expected true or false"),
        ('lr = {low = "a", high = 0.2}', "low of lr .* is 'a': expected a number"),
        ("epochs = {low = 1.5, high = 3}", "low of epochs .* is 1.5: expected a whole number"),
        ("lr = {low = 0.1, high = 0.2, log = true, step = 0.1}", "log = true: expected a low above 0 and no step"),
        ("dropout = {low = 0, high = 0.2, log = true}", "log = true: expected a low above 0 and no step"),
        (
            "dropout = {low = 0, high = 0.2, step = 0.3}",
            "step of dropout .* is 0.3: expected more than 0, and at most 0.2",
        ),
        ("augment = {low = 1, high = 2}", "augment in .* is an interval, but takes no number: give a list of choices"),
        ('freeze = ["*", "block1"]', "each of its values is a list itself"),
        ("dropout = [0.1, 0.1]", "has 0.1 twice: remove one"),
        ("lr = [0.1, 0.2]\nlearning-rate = [0.1, 0.2]", "'learning_rate' comes twice"),
    ],
)
def test_errors_name_the_key_and_what_is_expected(space, text, message):
    with pytest.raises(WrongUse) as caught:
        space(text)
    assert all(part in str(caught.value) for part in message.split(" .*")), caught.value
    assert "night.toml" in str(caught.value)


def test_a_step_that_binary_numbers_do_not_have(space):
    found = space("dropout = {low = 0.1, high = 0.7, step = 0.2}")["dropout"]
    assert found.high == 0.7 < 0.1 + 3 * 0.2
    assert [found.decode(code) for code in range(found.steps + 1)] == pytest.approx([0.1, 0.3, 0.5, 0.7])
    assert [found.encode(found.decode(code)) for code in range(4)] == [0, 1, 2, 3]
    assert found.encode(0.4) is None


def test_draws_are_uniform_and_a_function_of_seed_and_number():
    space = {
        "learning_rate": Interval(1e-4, 1e-2, log=True),
        "dropout": Interval(0.0, 0.5),
        "epochs": Interval(2, 8, 3, whole=True),
        "hidden": Interval(1, 100, log=True, whole=True),
        "augment": Choices(("flip", "none", "crop")),
    }
    drawn = [draw(space, seed=3, number=number) for number in range(1, 3001)]
    assert drawn[6] == draw(dict(reversed(space.items())), seed=3, number=7)
    assert draw({"dropout": space["dropout"]}, seed=3, number=7)["dropout"] == drawn[6]["dropout"]
    assert draw(space, seed=4, number=7) != drawn[6]
    rates, epochs = np.log10([one["learning_rate"] for one in drawn]), [one["epochs"] for one in drawn]
    # A uniform share has mean 1/2 and sigma 1/sqrt(12): of 3,000 the mean is within four standard errors, 0.021.
    assert abs((rates.mean() + 4) / 2 - 0.5) < 0.021
    assert abs(np.mean([one["dropout"] for one in drawn]) / 0.5 - 0.5) < 0.021
    assert {value: abs(epochs.count(value) / 3000 - 1 / 3) < 0.035 for value in set(epochs)} == {
        2: True,
        5: True,
        8: True,
    }
    assert {one["augment"] for one in drawn} == {"flip", "none", "crop"}
    hidden = [one["hidden"] for one in drawn]
    assert {min(hidden), max(hidden)} == {1, 100}
    # A whole number k stands for the logarithms from k - 1/2 to k + 1/2.
    assert abs(hidden.count(1) / 3000 - math.log(3) / math.log(201)) < 0.03


def test_the_numbers_of_a_seed_stay_what_they_are():
    """A batch that is repeated with a later version must find its own trials."""
    space = {"dropout": Interval(0.0, 1.0), "epochs": Interval(2, 9, 1, whole=True)}
    assert [draw(space, seed=0, number=number) for number in (1, 2)] == [
        {"dropout": 0.7764263027305108, "epochs": 6},
        {"dropout": 0.22460705159584238, "epochs": 2},
    ]
