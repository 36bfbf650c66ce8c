"""Who the workers are: TF_CONFIG, Slurm, and what is wrong in them."""

import json
import os

import pytest

from finetune.errors import WrongUse
from finetune.training.distribution import cluster as clusters

TWO = {"worker": ["a:2222", "b:2222"]}


def tf_config(cluster=TWO, task=None):
    return json.dumps({"cluster": cluster, "task": task or {"type": "worker", "index": 1}})


def test_tf_config_says_who_this_process_is():
    own = clusters.parse(tf_config())
    assert (own.rank, own.own, own.addresses) == (1, "b:2222", ("a:2222", "b:2222"))
    with_chief = clusters.parse(tf_config({"worker": ["b:1", "[::1]:2"], "chief": ["a:1"]}))
    assert (with_chief.rank, with_chief.own, with_chief.named(0)) == (2, "[::1]:2", "worker 0 (a:1)")
    assert clusters.split("[::1]:2") == ("::1", 2)
    assert clusters.parse(tf_config(task={"type": "worker", "index": "0"})).rank == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "has no 'cluster'"),
        ('{"cluster": {}}', "names no worker"),
        ('{"cluster": {"worker": "a:1"}}', "has no list of 'host:port' for 'worker'"),
        ('{"cluster": {"worker": ["a"]}}', "has 'a' for 'worker', expected 'host:port'"),
        ('{"cluster": {"worker": ["a:70000"]}}', "has 'a:70000' for 'worker'"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}}', "names a:1 twice"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', "has a job 'ps'"),
        ('{"cluster": {"worker": ["a:1"]}}', "has no 'task'"),
        (tf_config(task={"type": "chief", "index": 0}), "says its task is of type 'chief'"),
        (tf_config(task={"type": "worker", "index": 2}), "has the index 2, expected 0 to 1"),
        (tf_config(task={"type": "worker", "index": True}), "has the index True"),
    ],
)
def test_a_malformed_tf_config_is_one_error_with_an_example(text, words):
    with pytest.raises(WrongUse) as caught:
        clusters.from_environment({"TF_CONFIG": text})
    assert words in str(caught.value)
    assert clusters.EXAMPLE in str(caught.value)


def test_no_cluster_is_said_with_an_example():
    with pytest.raises(WrongUse, match="TF_CONFIG is not set") as caught:
        clusters.from_environment({})
    assert clusters.EXAMPLE in str(caught.value)
    with pytest.raises(WrongUse, match="start it with 'srun"):
        clusters.from_environment({"SLURM_JOB_ID": "7"})


@pytest.fixture
def slurm(monkeypatch):
    """The environment of one task of `srun`, as Slurm sets it."""

    def step(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}" if name != "SLURMD_NODENAME" else name, value)
        return clusters.from_environment({k: v for k, v in os.environ.items() if k != "TF_CONFIG"})

    return step


def test_a_slurm_step_is_a_cluster(slurm):
    own = slurm(
        JOB_ID="17",
        PROCID="2",
        STEP_NUM_TASKS="3",
        STEP_NODELIST="n[1-2]",
        STEP_TASKS_PER_NODE="2,1",
        SLURMD_NODENAME="n2",
    )
    assert own.addresses == ("n1:20017", "n1:20018", "n2:20017")
    assert own.rank == 2


def test_slurm_nodes_that_do_not_sort_are_refused(slurm):
    with pytest.raises(WrongUse, match="runs task 0 on n9, where TensorFlow's resolver expects n10"):
        slurm(
            JOB_ID="17",
            PROCID="0",
            STEP_NUM_TASKS="2",
            STEP_NODELIST="n9,n10",
            STEP_TASKS_PER_NODE="1(x2)",
            SLURMD_NODENAME="n9",
        )
