"""What `--tracker` takes, without importing any tracker."""

import pytest

from finetune._version import install_line
from finetune.config import tracker_setting
from finetune.errors import FinetuneError, WrongUse


@pytest.mark.parametrize(
    ("trackers", "words"),
    [
        (["tensorbord"], "did you mean tensorboard"),
        (["wnadb"], "did you mean wandb"),
        (["wandb="], "give wandb=PROJECT, or wandb alone"),
        (["wandb=https://me.wandb.ai/p"], "expected a project"),
        (["wandb=a/b/c"], "expected a project of Weights & Biases, or ENTITY/PROJECT"),
        (["tensorboard", "tensorboard=x"], "comes twice"),
        (["tensorboard="], "no place after '='"),
        (["tensorboard=s3://bucket"], "expected a directory"),
        (["mlflow=http://me:secret@host/"], "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_trackers_that_will_not_do(trackers, words):
    with pytest.raises(WrongUse, match=words) as raised:
        tracker_setting.check_trackers(trackers)
    assert "secret" not in str(raised.value)


def test_a_missing_extra_is_one_error_with_its_command(monkeypatch):
    monkeypatch.setattr(tracker_setting, "find_spec", lambda name: None)
    for kind in ("tensorboard", "mlflow", "wandb"):
        with pytest.raises(FinetuneError) as raised:
            tracker_setting.check_trackers([kind])
        assert install_line(kind) in str(raised.value)


def test_places_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = ["tensorboard", "tensorboard=logs", "mlflow=http://host", "mlflow=~/x", "wandb=me/birds"]
    made = tracker_setting.absolute_trackers(given)
    assert made[:3] == ("tensorboard", f"tensorboard={tmp_path}/logs", "mlflow=http://host")
    assert made[3].startswith("mlflow=/")
    assert made[4] == "wandb=me/birds"
