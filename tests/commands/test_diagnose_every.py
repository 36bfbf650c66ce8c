"""`run --diagnose-every K`: the diagnosis as a metric, without a trace in the weights."""

import json

import numpy as np
import pytest

from finetune.runs.model import open_trained
from tests.support.commands import typed


@pytest.mark.slow
def test_a_checkup_is_logged_and_changes_nothing(tmp_path):
    run = tmp_path / "run"
    result = typed(f"run TINY --diagnose-every 2 --run-dir {run}")
    assert result.exit_code == 0, result.output
    assert "BatchNorm: " in result.stderr
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert ["bn" in row for row in epochs] == [False, True, False]
    bn = epochs[1]["bn"]
    assert bn["cause"]
    assert 0 <= bn["is_training_false"] <= 1
    assert bn["images"] == 5  # the validation images
    # Made here, not by a fixture of the session: both runs need the same setting of TensorFlow's graph optimiser.
    assert typed(f"run TINY --quiet --run-dir {tmp_path / 'plain'}").exit_code == 0
    plain = open_trained(tmp_path / "plain").model
    for one, other in zip(open_trained(run).model.variables, plain.variables, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_forgotten_updates_are_named_while_the_run_goes_on(tmp_path):
    run = tmp_path / "run"
    result = typed(
        f"run --backbone resnet_v1_demo --data demo-target --examples 600 --validation 0.3 --epochs 4 --image-size 32 "
        f"--batch-size 20 --bn-updates off --diagnose-every 4 --quiet --run-dir {run}"
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[3]["bn"]["cause"] == "updates-never-ran-since-source"
