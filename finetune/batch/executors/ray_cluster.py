"""Jobs on a Ray cluster: one actor a job starts its process on a node with enough free cores and GPUs."""

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from finetune._version import install_line
from finetune.batch.executors.job_process import Ended, Handle, Launch, Process
from finetune.errors import FinetuneError, WrongUse
from finetune.process import cores

_CONNECT_SECONDS = 60.0
_INSTALL = f"--on ray needs Ray, which is not installed: {install_line('ray')}"


class RemoteJob:
    """The actor of one job; it lives on a node as long as the job does.

    If Ray's worker on the node dies, the job's process notices it by its lifeline, saves its state and ends.
    """

    def __init__(self) -> None:
        self._process: Process | None = None
        self._stopped = False

    def ready(self) -> str:
        """The node's name, once the job has been placed on it."""
        return socket.gethostname()

    def run(self, launch: Launch) -> Ended:
        """Start the process and wait for its end."""
        if self._stopped:
            return Ended(130)
        self._process = Process(launch)
        return self._process.wait()

    def end(self, *, kill: bool) -> None:
        """Ask the process to save its state and end, or `kill` it now. One that has not begun does not start."""
        self._stopped = True
        if self._process is not None:
            self._process.end(kill=kill)


class Ray:
    """An executor on a cluster: at `address`, or one that is started on this machine and ends with the batch.

    Every node must have finetune installed, and see the batch's folder and the data under the same paths.
    Raises FinetuneError if Ray is not installed or the cluster does not answer, and WrongUse if no node is large
    enough for a job.
    """

    def __init__(self, *, address: str | None, cpus: int, gpus: float, workers: int | None) -> None:
        ray = _ray()
        self._ray, self._cpus, self._gpus, self._workers = ray, cpus, gpus, workers
        self._address = address or os.environ.get("RAY_ADDRESS")
        _connect(ray, self._address)
        largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if cpus > largest:
            ray.shutdown()
            raise WrongUse(f"--cpus-per-job {cpus} is more than any node has: expected at most {largest:g}")
        if gpus and not ray.cluster_resources().get("GPU"):
            ray.shutdown()
            raise WrongUse(f"--gpus-per-job {gpus:g}, but no node of the Ray cluster has a GPU: leave it out")
        options = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0, max_concurrency=4)
        self._actor = options(RemoteJob)

    def slots(self) -> int:
        """As many jobs as the nodes that are alive now can run at once."""
        have = self._ray.cluster_resources()
        fit = int(have.get("CPU", 0) // self._cpus)
        if self._gpus:
            fit = min(fit, int(have.get("GPU", 0) // self._gpus))
        return max(1, fit if self._workers is None else min(fit, self._workers))

    def describe(self) -> str:
        """Such as `Ray on this machine: 1 nodes, 4 at once, 1 cores each`."""
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        where = f"Ray at {self._address}" if self._address else "Ray on this machine"
        gpus = f" and {self._gpus:g} GPUs" if self._gpus else ""
        return f"{where}: {nodes} nodes, {self.slots()} at once, {self._cpus} cores{gpus} each"

    def start(self, launch: Launch) -> Handle:
        """Ask for a slot on the cluster; the process starts once there is one."""
        environment = {"FINETUNE_THREADS": str(self._cpus), **launch.environment}
        if 0 < self._gpus < 1:
            environment.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        return _RayHandle(self._ray, self._actor.remote(), replace(launch, environment=environment))

    def close(self) -> None:
        """Leave the cluster. A cluster that was started here ends."""
        self._ray.shutdown()


class _RayHandle:
    """A job on the cluster."""

    def __init__(self, ray: Any, actor: Any, launch: Launch) -> None:
        self._ray, self._actor = ray, actor
        self._ready, self._result = actor.ready.remote(), actor.run.remote(launch)
        self._ended: Ended | None = None

    def poll(self) -> Ended | None:
        """How it ended; None while it lives or waits for a slot."""
        if self._ended is None and self._ray.wait([self._result], timeout=0)[0]:
            try:
                self._ended = self._ray.get(self._result)
            except self._ray.exceptions.RayError as error:
                self._ended = Ended(None, f"Ray: {_reason(error)}")
            self._ray.kill(self._actor)
        return self._ended

    def end(self, *, kill: bool) -> None:
        """Ask it to save its state and end, or `kill` it now."""
        if self._ended is not None:
            return
        if self._ray.wait([self._ready], timeout=0)[0]:
            self._actor.end.remote(kill=kill)
        else:
            self._ray.kill(self._actor)  # it still waits for a slot
            self._ended = Ended(130)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without it, Ray warns about a future default
    try:
        import ray
    except ImportError:
        raise FinetuneError(_INSTALL) from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Join the cluster, or start one. Raises FinetuneError if it does not answer within _CONNECT_SECONDS."""
    if address not in (None, "auto", "local"):
        _check_reachable(str(address))
    here = address in (None, "local")
    options = {"address": "local", "num_cpus": cores(), "include_dashboard": False} if here else {"address": address}
    failed: list[BaseException] = []

    def init() -> None:
        try:
            ray.init(**options, logging_level="ERROR", log_to_driver=False)
        except BaseException as error:
            failed.append(error)

    with _signals_kept():
        if here:
            init()  # in this thread: the servers it starts die with the thread that started them
        else:
            # In a thread, because Ray itself waits very long for an address that is not a Ray cluster.
            thread = threading.Thread(target=init, daemon=True, name="ray-init")
            thread.start()
            thread.join(_CONNECT_SECONDS)
            if thread.is_alive():
                raise FinetuneError(
                    f"the Ray cluster at {address} does not answer within {_CONNECT_SECONDS:.0f} s: check --address "
                    "(host:port of the head node), and that Ray has the same version on both sides"
                )
    if failed:
        raise FinetuneError(
            f"no Ray cluster at {address or 'this machine'}: {_reason(failed[0])}; check --address with 'ray status', "
            "or leave it out to use this machine"
        )


def _check_reachable(address: str) -> None:
    """Raise FinetuneError or WrongUse within seconds if nothing listens at `host:port` or `ray://host:port`."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+?)\]?:(\d{1,5})", address)
    if not found or int(found[2]) > 65535:
        raise WrongUse(f"--address {address!r} is not valid: expected HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    except OSError as error:
        raise FinetuneError(
            f"nothing answers at --address {address} ({error.strerror or error}): check host and port of the Ray "
            "cluster's head node ('ray start --head' prints them), or leave --address out to use this machine"
        ) from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the batch's handlers of Ctrl-C and SIGTERM, which Ray replaces by its own."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
