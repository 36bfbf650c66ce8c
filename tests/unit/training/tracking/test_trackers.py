"""What trackers are told, read back through their own libraries; and what happens when one fails."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2
from tensorboard.util import tensor_util

from finetune.errors import FinetuneError, Interrupted, WrongUse
from finetune.training.tracking.trackers import open_trackers
from tests.support.warm_process import WarmProcess

SETTINGS = {"backbone": "resnet_v1_50", "bn_decay": 0.9, "bn": ("a=freeze", "train"), "seed": 0, "checkpoint": None,
            "deterministic": False, "tracker": ("tensorboard",)}  # fmt: skip
SOURCE = {
    "moves": (np.zeros(4, np.float32), np.ones(4, np.float32)),
    "frozen": (np.full(3, 2.0, np.float32), np.full(3, 5.0, np.float32)),
}
RESULT = {
    "steps": 20,
    "test": {
        "is_training_false": {"accuracy": 0.8, "loss": 0.6},
        "is_training_true": {"accuracy": 0.7, "loss": None},
    },
}


def row(epoch, **more):
    return {
        "kind": "epoch", "epoch": epoch, "step": 10 * epoch, "train_loss": 1 / epoch, "train_accuracy": 0.1 * epoch,
        "validation_loss": 2 / epoch, "validation_accuracy": 0.05 * epoch, "learning_rate": 0.01 / epoch,
        "seconds": 2.0, "images_per_second": 50.0, **more,
    }  # fmt: skip


def statistics(epoch):
    return lambda: {**SOURCE, "moves": (np.full(4, 0.5 * epoch, np.float32), np.full(4, 2.0, np.float32))}


def opened(kind, run, warn=pytest.fail):
    return open_trackers([kind], run, settings=SETTINGS, source=SOURCE, warn=warn)


def train(report, epochs, start=1, error=None):
    """What a run tells that starts at epoch `start` and ends with `epochs`, and then by `error`."""
    for epoch in range(start, epochs + 1):
        for step in range(10 * epoch - 9, 10 * epoch + 1):
            report(lambda one, step=step: one.step(step, 1.0 / step))
        bn = {"bn": {"cause": "healthy", "is_training_false": 0.5, "share_left": None}} if epoch == 2 else {}
        rows = [row(one, **(bn if one == 2 else {})) for one in range(1, epoch + 1)]
        now = statistics(epoch)
        report(lambda one, rows=rows, now=now: one.epoch(rows, now))
        report(lambda one: one.flush())
    if error is not None:
        raise error


def events(directory):
    """Tag -> [(step, values)] by TensorBoard's own reader."""
    sizes = {"tensors": 0, "scalars": 0, "histograms": 0}
    read = EventAccumulator(str(directory), size_guidance=sizes)
    read.Reload()
    found = {
        tag: [(event.step, tensor_util.make_ndarray(event.tensor_proto)) for event in read.Tensors(tag)]
        for tag in read.Tags()["tensors"]
    }
    return found, read


@pytest.fixture
def run(tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    return tmp_path / "runs" / "a"


def test_tensorboard_has_scalars_histograms_and_hparams(run):
    with opened("tensorboard", run) as report:
        train(report, 2)
        report(lambda one: one.end(RESULT))
    found, read = events(run / "tensorboard")
    expected = {
        "loss/train": [(10, 1.0), (20, 0.5)], "loss/validation": [(10, 2.0), (20, 1.0)],
        "accuracy/train": [(10, 0.1), (20, 0.2)], "accuracy/validation": [(10, 0.05), (20, 0.1)],
        "learning_rate": [(10, 0.01), (20, 0.005)], "accuracy/test": [(20, 0.8)],
        "accuracy/test_is_training_true": [(20, 0.7)], "loss/test": [(20, 0.6)], "bn/is_training_false": [(20, 0.5)],
    }  # fmt: skip
    for tag, points in expected.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in points], tag
        assert [float(value) for _, value in found[tag]] == pytest.approx([value for _, value in points]), tag
    assert [step for step, _ in found["loss/batch"]] == list(range(1, 21))
    assert "loss/test_is_training_true" not in found  # not finite: JSON's null
    assert "bn_moving_mean/frozen" not in found
    # Histograms are rows of (left edge, right edge, count): all four channels, where they lie.
    for tag, value in (("bn_moving_mean/moves", 1.0), ("bn_moving_variance/moves", 2.0),
                       ("bn_drift/moves", 1.0 / np.sqrt(1.001))):  # fmt: skip
        (step, first), (_, buckets) = found[tag]
        assert step == 10
        assert first.shape[1] == 3
        filled = buckets[buckets[:, 2] > 0]
        assert filled[:, 2].sum() == 4
        assert filled[0, 0] - 1e-6 <= value <= filled[-1, 1] + 1e-6
    content = read.PluginTagToContent("hparams")
    start = plugin_data_pb2.HParamsPluginData.FromString(content[metadata.SESSION_START_INFO_TAG]).session_start_info
    assert start.group_name
    assert start.hparams["bn"].string_value == "a=freeze train"
    assert start.hparams["bn_decay"].number_value == 0.9
    assert set(start.hparams) == {"backbone", "bn_decay", "bn", "seed", "deterministic"}
    end = plugin_data_pb2.HParamsPluginData.FromString(content[metadata.SESSION_END_INFO_TAG]).session_end_info
    assert end.status == 1  # STATUS_SUCCESS


def cut_off(path):
    """As a process that was killed while it wrote."""
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [lambda path: None, cut_off])
def test_tensorboard_goes_on_in_the_same_log_without_a_step_twice(run, damage):
    """Killed after epoch 2 was told and before it was saved: the resumed run tells epoch 2 again."""
    with pytest.raises(Interrupted), opened("tensorboard", run) as report:
        train(report, 2, error=Interrupted("now"))
    for path in (run / "tensorboard").iterdir():
        damage(path)
    with opened("tensorboard", run) as report:
        train(report, 3, start=2)
        report(lambda one: one.end({**RESULT, "steps": 30}))
    found, _ = events(run / "tensorboard")
    for tag, points in found.items():
        steps = [step for step, _ in points]
        assert sorted(set(steps)) == sorted(steps), tag
    assert sorted(step for step, _ in found["loss/batch"]) == list(range(1, 31))
    assert sorted(step for step, _ in found["loss/train"]) == [10, 20, 30]
    assert sorted(step for step, _ in found["bn_moving_mean/moves"]) == [10, 20, 30]
    assert len(list((run / "tensorboard").iterdir())) == 2


def test_tensorboard_in_a_directory_of_its_own_refuses_another_runs_logs(run, tmp_path):
    logs = tmp_path / "logs"
    with opened(f"tensorboard={logs}", run):
        pass
    assert list((logs / "a").glob("events.out.tfevents.*"))
    with opened(f"tensorboard={logs}", run):
        pass
    (tmp_path / "other" / "a").mkdir(parents=True)
    with (
        pytest.raises(WrongUse, match="holds logs of another run"),
        opened(f"tensorboard={logs}", tmp_path / "other" / "a"),
    ):
        pass


def mlflow_runs(directory):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    experiment = client.get_experiment_by_name("finetune")
    return client, client.search_runs([experiment.experiment_id])


def points(client, run, name):
    return sorted((one.step, one.value) for one in client.get_metric_history(run.info.run_id, name))


def test_mlflow_keeps_params_metrics_and_files_and_goes_on_after_an_interruption(run, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(Interrupted), opened("mlflow", run) as report:
        train(report, 2, error=Interrupted("now"))
    client, [told] = mlflow_runs(run.parent)
    assert told.info.status == "KILLED"
    with opened("mlflow", run) as report:
        assert mlflow_runs(run.parent)[1][0].info.status == "RUNNING"
        train(report, 3, start=2)
        report(lambda one: one.end({**RESULT, "steps": 30}))
        (run / "result.json").write_text("{}")
    client, [told] = mlflow_runs(run.parent)
    assert (told.info.status, told.info.run_name) == ("FINISHED", "a")
    assert told.data.params["bn"] == "a=freeze train"
    assert points(client, told, "loss/train") == [(10, 1.0), (20, 0.5), (30, pytest.approx(1 / 3))]
    assert points(client, told, "accuracy/test") == [(30, 0.8)]
    assert points(client, told, "bn/is_training_false") == [(20, 0.5)]
    assert [one.path for one in client.list_artifacts(told.info.run_id)] == ["result.json"]
    assert (run.parent / "mlartifacts").is_dir()


@pytest.mark.slow
def test_mlflow_begins_anew_where_the_store_has_forgotten_the_run(run, tmp_path):
    (run / "tracking.json").write_text(json.dumps({"mlflow": "0" * 32, "tensorboard": "kept"}))
    with pytest.raises(RuntimeError), opened(f"mlflow={tmp_path / 'store'}", run) as report:
        train(report, 2, start=2, error=RuntimeError())
    client, [told] = mlflow_runs(tmp_path / "store")
    assert told.info.status == "FAILED"
    assert [step for step, _ in points(client, told, "loss/train")] == [10, 20]
    noted = json.loads((run / "tracking.json").read_text())
    assert noted == {"mlflow": told.info.run_id, "tensorboard": "kept"}


@pytest.mark.slow
def test_several_runs_of_a_batch_open_one_new_store_at_once(tmp_path):
    program = (
        "import sys; from pathlib import Path; from finetune.training.tracking.trackers import open_trackers\n"
        "with open_trackers(['mlflow'], Path(sys.argv[1]), settings={}, source=None, warn=sys.exit): pass"
    )
    started = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        started.append(WarmProcess(program, str(tmp_path / name)))
    for process in started:
        assert process.communicate(timeout=300)[1] == ""
        assert process.returncode == 0
    assert sorted(one.info.run_name for one in mlflow_runs(tmp_path)[1]) == ["a", "b"]


@pytest.fixture
def wandb_offline(tmp_path, monkeypatch):
    """No server, no file outside of `tmp_path`."""
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb" / name))


def wandb_records(run):
    """Every record of the run's offline files, the oldest file first, read by wandb's own reader."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    wandb.teardown()  # its process, which writes the files, has ended then
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        file = DataStore()
        file.open_for_scan(str(path))
        while (content := file.scan_data()) is not None:
            record = Record()
            record.ParseFromString(content)
            yield record
        file._fp.close()


def wandb_values(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.slow
def test_wandb_keeps_config_history_summary_and_files_and_goes_on_under_one_id(run, wandb_offline):
    with pytest.raises(Interrupted), opened("wandb", run) as report:
        train(report, 2, error=Interrupted("now"))
    noted = json.loads((run / "tracking.json").read_text())["wandb"]
    assert noted["step"] == 20
    with opened("wandb", run) as report:
        train(report, 3, start=2)
        report(lambda one: one.end({**RESULT, "steps": 30}))
        (run / "MODEL_CARD.md").write_text("# card")
    records = list(wandb_records(run))
    begun = [one.run for one in records if one.HasField("run")]
    assert {(one.run_id, one.project, one.display_name) for one in begun} == {(noted["id"], "finetune", "a")}
    config = wandb_values(begun[0].config.update)
    assert (config["bn"], config["bn_decay"], config["seed"]) == ("a=freeze train", 0.9, 0)
    assert "checkpoint" not in config
    rows = [wandb_values(one.history.item) for one in records if one.HasField("history")]
    assert [(row["_step"], row["loss/train"]) for row in rows] == [(10, 1.0), (20, 0.5), (30, pytest.approx(1 / 3))]
    assert [row.get("bn/is_training_false") for row in rows] == [None, 0.5, None]
    summary = [wandb_values(one.summary.update) for one in records if one.HasField("summary")]
    assert [one["accuracy/test"] for one in summary if "accuracy/test" in one] == [0.8]
    assert [one.exit.exit_code for one in records if one.HasField("exit")] == [130, 0]
    kept = [file.path for one in records if one.HasField("files") for file in one.files.files]
    assert "MODEL_CARD.md" in kept
    [card] = (run / "wandb").glob("offline-run-*/files/MODEL_CARD.md")
    assert card.read_text() == "# card"
    assert not card.is_symlink()


@pytest.mark.slow
def test_wandb_takes_project_and_mode_from_the_user(run, wandb_offline, monkeypatch):
    with opened("wandb=me/birds", run):
        pass
    [begun] = [one.run for one in wandb_records(run) if one.HasField("run")]
    assert (begun.entity, begun.project) == ("me", "birds")
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with (
        pytest.raises(FinetuneError, match="WANDB_MODE is 'onlin': expected one of online, offline, disabled"),
        opened("wandb", run),
    ):
        pass
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with opened("wandb", run) as report:
        train(report, 2)
        report(lambda one: one.end(RESULT))
        (run / "MODEL_CARD.md").write_text("# card")
    assert len(list((run / "wandb").glob("*run-*"))) == 1


@pytest.mark.slow
def test_a_wandb_server_that_is_gone_is_one_error(run, wandb_offline, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("finetune.training.tracking.to_wandb._TIMEOUTS", {"init_timeout": 2.0})
    with pytest.raises(FinetuneError, match="--tracker wandb cannot be opened") as raised, opened("wandb", run):
        pass
    assert "\n" not in str(raised.value)


def test_a_tracker_that_fails_costs_a_warning_once(run, monkeypatch):
    from finetune.training.tracking.to_tensorboard import TensorBoard

    def fail(self, step, loss):
        raise OSError("the disk is gone\nand more")

    monkeypatch.setattr(TensorBoard, "step", fail)
    warnings = []
    with opened("tensorboard", run, warnings.append) as report:
        train(report, 2)
    assert len(warnings) == 1
    assert "the tensorboard tracker failed (the disk is gone)" in warnings[0]


def test_a_store_that_cannot_be_opened_is_one_error_before_the_first_step(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the waits between them are MLflow's
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", "http://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(FinetuneError, match="cannot be opened") as raised, opened(f"mlflow={place}", run):
            pass
        assert "\n" not in str(raised.value)
