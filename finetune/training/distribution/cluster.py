"""The workers of a run, and which of them this process is: from TF_CONFIG, or from Slurm."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.errors import WrongUse

EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
_JOBS = ("chief", "worker")
_ADDRESS = re.compile(r"^(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:\[\]/]+):(?P<port>\d{1,5})$")


@dataclass(frozen=True)
class Cluster:
    """`jobs` in TensorFlow's terms: job -> `host:port` of its tasks. This process is task `index` of job `job`."""

    jobs: dict[str, tuple[str, ...]]
    job: str
    index: int

    @property
    def addresses(self) -> tuple[str, ...]:
        """`host:port` of every worker. The first is the chief, the only one that writes files."""
        return tuple(address for job in _JOBS for address in self.jobs.get(job, ()))

    @property
    def rank(self) -> int:
        """Place of this process in `addresses`."""
        return self.index + (len(self.jobs.get("chief", ())) if self.job == "worker" else 0)

    @property
    def own(self) -> str:
        """`host:port` of this process."""
        return self.addresses[self.rank]

    def named(self, rank: int) -> str:
        """A worker in words."""
        return f"worker {rank} ({self.addresses[rank]})"


def split(address: str) -> tuple[str, int]:
    """(host, port) of `host:port`; an IPv6 host stands in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def from_environment(environment: Mapping[str, str] = os.environ) -> Cluster:
    """TF_CONFIG where it is set, else the variables of a Slurm step. WrongUse where neither names the workers."""
    if environment.get("TF_CONFIG", "").strip():
        return parse(environment["TF_CONFIG"])
    if "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment:
        return _from_slurm(environment)
    if "SLURM_JOB_ID" in environment:
        raise WrongUse(
            "--distribute multi-worker: this is a Slurm job, but no step of it: start it with 'srun finetune run ...', "
            "one task a worker"
        )
    raise WrongUse(
        f"--distribute multi-worker: TF_CONFIG is not set: expected in it, on every worker, {EXAMPLE}, with the "
        "worker's own 'index'; or a step of a Slurm job ('srun finetune run ...')"
    )


def parse(text: str) -> Cluster:
    """The value of TF_CONFIG. WrongUse where it is not what TensorFlow documents, with an example."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"is not JSON ({error})") from None
    if not isinstance(value, dict) or not isinstance(value.get("cluster"), dict):
        raise _malformed("has no 'cluster'")
    jobs = {str(job): _tasks(job, addresses) for job, addresses in value["cluster"].items() if addresses}
    if unknown := [job for job in jobs if job not in _JOBS]:
        raise _malformed(f"has a job '{unknown[0]}', which --distribute multi-worker does not use")
    if len(jobs.get("chief", ())) > 1:
        raise _malformed("names more than one chief")
    everyone = [address for addresses in jobs.values() for address in addresses]
    if not everyone:
        raise _malformed("names no worker")
    if len(set(everyone)) < len(everyone):
        raise _malformed(f"names {max(everyone, key=everyone.count)} twice: every worker needs a port of its own")
    task = value.get("task")
    if not isinstance(task, dict):
        raise _malformed("has no 'task', which says which worker this process is")
    job, index = task.get("type"), task.get("index")
    if job not in jobs:
        raise _malformed(f"says its task is of type {job!r}, but 'cluster' has {', '.join(jobs)}")
    if isinstance(index, str) and index.isdigit():
        index = int(index)
    if type(index) is not int or not 0 <= index < len(jobs[job]):
        raise _malformed(f"says its task has the index {index!r}, expected 0 to {len(jobs[job]) - 1}")
    return Cluster(jobs, job, index)


def _tasks(job: Any, addresses: Any) -> tuple[str, ...]:
    """The checked addresses of one job, `host:port` each."""
    if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
        raise _malformed(f"has no list of 'host:port' for '{job}'")
    for address in addresses:
        found = _ADDRESS.match(address)
        if not found or not 0 < int(found["port"]) < 2**16:
            raise _malformed(f"has {address!r} for '{job}', expected 'host:port'")
    return tuple(addresses)


def _malformed(what: str) -> WrongUse:
    """The error of a TF_CONFIG, which ends in a correct example."""
    return WrongUse(f"TF_CONFIG {what}: expected something like {EXAMPLE}, the same on every worker but for the index")


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
    """With TensorFlow's resolver, which reads the process's environment."""
    import tensorflow as tf

    # A port of the job's own: two jobs may share a node.
    port = 20_000 + int(environment.get("SLURM_JOB_ID", "0")) % 20_000
    try:
        # Slurm has given every task its GPUs (--gpus-per-task), and without any the resolver would call nvidia-smi and
        # then divide by none. One each is only how it counts the tasks of a node.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port, gpus_per_node=2**10, gpus_per_task=1, auto_set_gpu=False
        )
        jobs = {job: tuple(addresses) for job, addresses in resolver.cluster_spec().as_dict().items()}
        job, index = resolver.get_task_info()
        cluster = Cluster(jobs, job, int(index))
        host = cluster.own.rpartition(":")[0]
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
        raise WrongUse(
            f"the variables of this Slurm step cannot be read ({error}): set TF_CONFIG, such as {EXAMPLE}"
        ) from None
    node = environment.get("SLURMD_NODENAME", host)
    if node != host:
        # The resolver sorts nodes by name, Slurm numbers tasks in its own order: n10 and n9 change places.
        raise WrongUse(
            f"Slurm runs task {environment['SLURM_PROCID']} on {node}, where TensorFlow's resolver expects {host}: "
            f"name the nodes so that they sort (n09, n10), or set TF_CONFIG, such as {EXAMPLE}"
        )
    return cluster
