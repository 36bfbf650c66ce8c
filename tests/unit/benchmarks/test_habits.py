"""The clinic of strangers' habits: one training from end to end, and what the kept evidence shows of the rules."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from benchmarks.clinic.habits import judged, trial
from benchmarks.clinic.habits.habit import Bench, Habit
from benchmarks.clinic.habits.images import FIRST, Images, Task
from benchmarks.clinic.habits.judged import Cell
from benchmarks.clinic.habits.tf1_habits import PROGRAMS, make
from finetune.diagnosis.confidence import RELIABILITY


def stripes(count: int, seed: int) -> Images:
    """Five classes of stripes, 16 px."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 5
    wave = np.sin(np.arange(16) * (0.4 + 0.4 * y[:, None]) + rng.uniform(0, 6.28, (count, 1)))
    pixels = 128 + 60 * wave[:, None, :, None] + rng.normal(0, 20, (count, 16, 16, 3))
    return Images(np.clip(pixels, 0, 255).astype(np.uint8), y)


@pytest.mark.slow
def test_a_program_is_trained_saved_diagnosed_judged_and_mended(tmp_path):
    striped = replace(FIRST, task=lambda: Task(stripes(1500, 0), stripes(1500, 1)))
    right, program = PROGRAMS["minimize without UPDATE_OPS"]
    short = partial(make, "minimize", right, "tf.layers", replace(program, steps=60))
    (rows,) = trial.run(Habit("minimize", "tf.layers", short), Bench(tmp_path, "dense-bn", {}, 0, striped))
    assert [row["test_images"] for row in rows] == [50, 100, 200, 1000]
    assert [row["verdict"] for row in rows] == ["updates-never-ran"] * 4
    cell = Cell(rows[-1])
    assert cell.gain > 0.2
    # The session that trained the network and the product count the same images.
    assert judged.before_remedy(cell) == pytest.approx(rows[0]["own"], abs=1e-9)
    assert rows[0]["remedy"]["command"] == "recalibrate-bn"
    assert rows[0]["remedy"]["after"] - rows[0]["remedy"]["before"] == pytest.approx(cell.gain, abs=0.05)


@pytest.fixture(scope="module")
def cells():
    return [Cell(row) for row in judged.rows()]


def test_there_are_enough_models_and_networks(cells):
    assert len(cells) >= 400
    assert len({cell.row["model"].rpartition(" | ")[2] for cell in cells}) >= 5


def test_no_healthy_model_is_called_ill_and_no_ill_one_healthy(cells):
    assert [cell.row["model"] for cell in cells if cell.alarm] == []
    assert [cell.row["model"] for cell in cells if cell.acquittal] == []


@pytest.mark.parametrize(("images", "least"), [(1000, 0.97), (100, 0.9)])
def test_the_cause_or_its_remedy_is_named(cells, images, least):
    own = [cell for cell in cells if cell.images == images]
    assert sum(cell.useful for cell in own) >= least * len(own)


def test_undetermined_is_rare_and_said_where_the_images_cannot_show_a_gap(cells):
    own = [cell for cell in cells if cell.images == 100]
    assert sum(cell.undetermined for cell in own) <= 0.15 * len(own)
    assert [cell.row["model"] for cell in cells if cell.wrongly_undetermined] == []


def test_the_framework_and_the_product_give_the_same_accuracy(cells):
    """Where both see the same images; of logits that are NaN, the one takes class 0, the other none."""
    known = [cell for cell in cells if cell.images == 1000 and cell.row["own"] is not None]
    finite = [cell for cell in known if "not-finite" not in cell.row["right"]]
    assert [cell.row["model"] for cell in finite if abs(judged.before_remedy(cell) - cell.row["own"]) > 1e-4] == []
    assert len(finite) >= 30


def test_every_remedy_runs_and_helps(cells):
    ran = [cell for cell in cells if cell.images == 1000 and cell.row["remedy"]]
    plans = [cell for cell in ran if cell.row["remedy"]["command"] == "run"]
    assert [cell.row["model"] for cell in plans if cell.row["remedy"]["exit_code"]] == []
    ran = [cell for cell in ran if cell not in plans]
    assert [cell.row["model"] for cell in ran if "after" not in cell.row["remedy"]] == []
    harmed = [cell.row["model"] for cell in ran if cell.row["remedy"]["after"] < judged.before_remedy(cell) - 0.01]
    assert harmed == []


@pytest.fixture(scope="module")
def held_out():
    return [Cell(row) for row in judged.rows(judged.HELD_OUT)]


def test_the_confidence_is_what_the_held_out_models_show(held_out):
    assert len(held_out) >= 308
    measured = {basis: round(share, 2) for basis, share in judged.reliability(held_out).items()}
    # As first seen. A rule was corrected by four of these verdicts since, which proves nothing of other models.
    assert measured == {**RELIABILITY, "tried": 0.92}
    assert RELIABILITY["tried"] < measured["tried"]
    # Of verdicts given at 90 % and more, as many are right, though their networks have no part in the numbers.
    said = [row.split("|") for row in judged.calibration(held_out)[2:]]
    surest = [(int(row[2]), float(row[4].split("%")[0])) for row in said if int(row[1].split("%")[0]) >= 90]
    assert sum(count * right for count, right in surest) / sum(count for count, _ in surest) >= 90


def test_models_of_unseen_recipes_are_neither_called_ill_nor_acquitted_wrongly(held_out):
    """By the rules as they are. The reports before a change are in the clinic's README."""
    cells = [*held_out, *(Cell(row) for row in judged.rows(judged.CORRECTED_BY))]
    assert len(cells) >= 432
    assert [cell.row["model"] for cell in cells if cell.alarm or cell.acquittal] == []
    enough = [cell for cell in cells if cell.images >= 100]
    assert sum(cell.useful for cell in enough) >= 0.9 * len(enough)


def test_the_held_out_recipes_share_no_network_and_no_name_with_the_others():
    from benchmarks.clinic.habits import held_out, keras_habits
    from benchmarks.clinic.habits.images import WORLDS
    from benchmarks.clinic.habits.networks import NETWORKS, UNSEEN

    plan = held_out.plan()
    assert {network for _, network, _ in plan} == set(UNSEEN)
    assert not set(UNSEEN) & set(NETWORKS)
    assert {world.name for _, _, world in plan} == set(WORLDS)
    assert not {habit.name for habit, _, _ in plan} & {*PROGRAMS, *keras_habits.RECIPES}
    models = [(habit.name, habit.dialect, network) for habit, network, _ in plan]
    assert len(set(models)) == len(models)
