"""Jobs on a Ray cluster, with the stand-in for `finetune run`; skipped where the extra `ray` is not installed."""

import importlib.util
import re
import socket
import sys
import threading
import time

import pytest

from finetune._version import install_line
from finetune.batch import scheduler
from finetune.batch.call import Call
from finetune.batch.executors import ray_cluster
from finetune.batch.executors.job_process import Launch
from finetune.batch.executors.ray_cluster import Ray
from finetune.batch.folder import BatchFolder
from finetune.batch.jobs import read_jobs
from finetune.batch.status import Display
from finetune.errors import FinetuneError, WrongUse
from tests.support.places import ROOT
from tests.support.stub_run import StubLaunch

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="the extra 'ray' is not installed",
)
CLUSTER = {"address": None, "cpus": 1, "gpus": 0.0, "workers": None}


def test_without_ray_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FinetuneError, match=re.escape(f": {install_line('ray')}") + "$"):
        Ray(**CLUSTER)


@pytest.mark.parametrize("address", ["here", "host:99999", "host:", "http://host:6379", ":6379"])
def test_what_is_no_address(address):
    with pytest.raises(WrongUse, match=r"--address .* is not valid: expected HOST:PORT"):
        ray_cluster._check_reachable(address)


def test_nothing_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(FinetuneError, match=f"nothing answers at --address {address}"):
            ray_cluster._check_reachable(address)
        free.listen()
        ray_cluster._check_reachable(address)
        ray_cluster._check_reachable(f"ray://{address}")


def test_a_cluster_that_does_not_answer_is_given_up(monkeypatch):
    class Silent:
        @staticmethod
        def init(**options):
            time.sleep(5)

    monkeypatch.setattr(ray_cluster, "_CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(ray_cluster, "_check_reachable", lambda address: None)
    with pytest.raises(FinetuneError, match=r"at head:6379 does not answer within 0 s: check --address"):
        ray_cluster._connect(Silent, "head:6379")


def test_a_job_that_waits_for_its_process_is_stopped_before_it_starts(tmp_path):
    remote = ray_cluster.RemoteJob()
    remote.end(kill=False)
    assert remote.run(Launch(("--help",), tmp_path / "log")).exit_code == 130
    assert not (tmp_path / "log").exists()


@needs_ray
@pytest.mark.slow
def test_a_node_dies_and_its_job_goes_on_elsewhere(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("STUB", str(tmp_path / "stub"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(scheduler, "Launch", StubLaunch)
    monkeypatch.setattr(Call, "_survey", lambda self, some: {})
    (tmp_path / "stub").mkdir()
    file = tmp_path / "night.toml"
    file.write_text('[defaults]\nbackbone = "resnet_v1_demo"\n' + "".join(f'[[job]]\nname = "{n}"\n' for n in "abcd"))
    for name in "ab":
        (tmp_path / "stub" / name).write_text("hang:15 ok")
    every = read_jobs(file)
    call = Call(file, BatchFolder(tmp_path / "night"), every, every, display=Display())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        pids = [tmp_path / "night" / name / "pid" for name in "ab"]

        def kill_a_node():
            while not all(path.exists() for path in pids):
                time.sleep(0.05)
            cluster.remove_node(second, allow_graceful=False)

        killer = threading.Thread(target=kill_a_node, daemon=True)
        killer.start()
        with pytest.raises(WrongUse, match="--cpus-per-job 2 is more than any node has: expected at most 1"):
            Ray(**{**CLUSTER, "address": cluster.address, "cpus": 2})
        summary = call.run(lambda: Ray(**{**CLUSTER, "address": cluster.address}), fail_fast=False)
        killer.join(10)
    finally:
        cluster.shutdown()
    assert [one.state for one in summary.statuses] == ["done"] * 4
    tries = {name: (tmp_path / "stub" / f"{name}.seen").read_text().split() for name in "abcd"}
    assert sorted([tries["a"], tries["b"]]) == [["begin"], ["begin", "resume"]]
    assert tries["c"] == tries["d"] == ["begin"]
    assert (tmp_path / "night" / "summary.csv").exists()
