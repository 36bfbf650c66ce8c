"""The race of `make bench`: who may run, what is counted and printed. The contenders here only pretend to train."""

import sys

import pytest

from benchmarks.peers import results
from benchmarks.peers.conductor import Contender, race

PRETENDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pace import Pace

pace, loss, seconds = Pace(), float(sys.argv[2]), float(sys.argv[3])
print("words of a library")
pace.ready()
while True:
    time.sleep(seconds)
    pace.step(loss)
"""


@pytest.fixture
def contender(tmp_path):
    from benchmarks.peers.conductor import HERE

    script = tmp_path / "pretender.py"
    script.write_text(PRETENDER)

    def made(name, loss, seconds, **others):
        return Contender(name, (str(script), str(HERE), str(loss), str(seconds)), python=sys.executable, **others)

    return made


def test_ratios_are_taken_round_by_round_and_another_loss_does_not_count(contender):
    found = race(
        [
            contender("finetune", 2.0, 0.01),
            contender("slow", 2.01, 0.03),
            contender("untrained", 2.3, 0.001),
            contender("broken", "x", 0.01),
        ],
        rounds=3,
        steps=4,
        batch=32,
        warm=4,
    )
    assert len(found["slow"]["images_per_second"]) == 3
    assert 1.5 < found["slow"]["ours_over_it"] < 6
    assert "loss" in found["untrained"]["failed"]
    assert "images_per_second" not in found["untrained"]
    assert "could not convert string to float" in found["broken"]["failed"]


def test_the_page_says_what_failed_and_how_far_the_machine_is(tmp_path):
    row = {
        "what": "full fine-tuning",
        "unit": "images/s",
        "goal": 1.25,
        "gflop_an_image": 2.0,
        "peak_gflops": 200.0,
        "contenders": {
            "finetune": {"median": 60.0, "loss": 2.0, "ours_over_it": 1.0},
            "Keras": {"median": 40.0, "loss": 2.0, "ours_over_it": 1.5},
            "PyTorch": {"failed": "no module named torch"},
        },
    }
    assert results.judged(row).startswith("best peer: Keras; ours is 1.50 x it, goal 1.25")
    assert "60% of the matrix product's 200 GFLOP/s" in results.judged(row)
    found = {"machine": {"date": "2026-11-23"}, "rows": {"resnet50": row}}
    results.write(found, tmp_path / "results.json", tmp_path / "RESULTS.md")
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| PyTorch | failed: no module named torch |" in page
    assert "| Keras | 40.00 | 1.500 | 2.000 |" in page
    assert results.read(tmp_path / "results.json") == found
    faster = {**found, "rows": {"resnet50": {**row, "contenders": {"finetune": {"median": 90.0}}}}}
    assert "resnet50, finetune: 1.50 x" in results.comparison(found, faster)
