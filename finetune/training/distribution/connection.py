"""From `--distribute` to a `Distribution`: the devices of this machine, or the workers of a cluster.

All workers of a cluster connect and agree on its settings, before TensorFlow computes anything.

TensorFlow's own server waits an hour for a worker that was never started. It ignores Ctrl-C and reports nothing. So the
chief first listens itself, at the address where TensorFlow will listen later, for one line of JSON from each of the
others. The messages are only compared; nothing in them is executed.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import Any

import tensorflow as tf

from finetune._version import __version__
from finetune.config import RunConfig, from_mapping
from finetune.errors import FinetuneError, WrongUse
from finetune.text import first_line
from finetune.training.display import Display
from finetune.training.distribution.cluster import Cluster, from_environment, split
from finetune.training.distribution.strategy import ALONE, Distribution

_PLACES = ("data_dir", "checkpoint")
"""Settings that may differ between workers: the paths of files on each."""
_LARGEST = 2**20
"""Largest size of a message in bytes; a config has some thousand."""
_HEARD = 5.0
"""Seconds in which a worker that connects must send its message."""

_QUIET, _REMINDER = 5.0, 60.0
"""Seconds before the first message about missing workers, and between two such messages."""


def mirrored(warn: Callable[[str], None]) -> Distribution:
    """A replica on every GPU of this machine, or on every logical CPU where TensorFlow has been given several."""
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        kind = "GPU" if gpus else "CPU, no GPU"
        warn(
            f"--distribute mirrored found one device (1 {kind}): the run is not distributed. It needs several GPUs "
            "in one machine; for several machines there is --distribute multi-worker"
        )
        return Distribution()
    return Distribution(tf.distribute.MirroredStrategy([device.name for device in devices]))


def connect(
    distribute: str, config: RunConfig | None, command: str, display: Display
) -> tuple[Distribution, RunConfig]:
    """What `distribute` names, connected, and the config of the run on it.

    With `multi-worker` these are the workers of TF_CONFIG or Slurm, and the chief's config with this worker's paths. To
    be called before TensorFlow computes anything. `config` None: this worker accepts any config of the chief.
    Raises WrongUse and FinetuneError on every worker where the workers do not agree.
    """
    if distribute != "multi-worker":
        assert config is not None
        return mirrored(display.warn) if distribute == "mirrored" else ALONE, config
    cluster, settings = from_environment(), config.to_json() if config else None
    gpus, version = len(tf.config.list_physical_devices("GPU")), f"finetune {__version__}, TensorFlow {tf.__version__}"
    offer = {"command": command, "version": version, "gpus": gpus, "settings": settings}
    offer = json.loads(json.dumps(offer))  # as the other workers receive it: tuples become lists
    agreed = meet(cluster, offer, display.say)["settings"] or {}
    spec = tf.train.ClusterSpec({job: list(addresses) for job, addresses in cluster.jobs.items()})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, task_type=cluster.job, task_id=cluster.index, num_accelerators={"GPU": gpus}, rpc_layer="grpc"
    )
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except RuntimeError as error:
        raise FinetuneError(
            f"--distribute multi-worker has to be set up before TensorFlow computes anything ({error}): begin it in a "
            "process of its own"
        ) from None
    except tf.errors.OpError as error:
        raise FinetuneError(
            f"{cluster.named(cluster.rank)} cannot be connected with the others ({first_line(error)}): check that "
            "they can reach each other at the addresses in TF_CONFIG, and start all of them again"
        ) from None
    finally:
        # TensorFlow's server takes SIGTERM: without this, a run could no longer be stopped.
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    own = {name: value for name, value in (settings or {}).items() if name in _PLACES}
    return Distribution(strategy, cluster), from_mapping({**agreed, **own}, where="the chief's settings")


def _objection(chiefs: dict[str, Any], others: dict[str, Any]) -> str | None:
    """A sentence on the first difference between the two; None where there is none."""
    for name, words in (("version", "the programs"), ("gpus", "the numbers of GPUs"), ("command", "the commands")):
        if chiefs[name] != others.get(name):
            return f"{words} differ, {others.get(name)} there and {chiefs[name]} here"
    mine, theirs = chiefs["settings"] or {}, others.get("settings")
    if not isinstance(theirs, dict):  # it accepts any settings of the chief
        return None
    for name in mine:
        if name not in _PLACES and theirs.get(name) != mine[name]:
            option = f"--{name.replace('_', '-')}"
            return f"{option} is {theirs.get(name)!r} there and {mine[name]!r} here; give all workers the same command"
    return None


def patience() -> float:
    """Seconds to wait for the other workers: FINETUNE_WAIT, or ten minutes. WrongUse where it is no number."""
    text = os.environ.get("FINETUNE_WAIT", "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise WrongUse(f"FINETUNE_WAIT is {text!r}: expected the seconds to wait for the other workers, such as 600")
    return seconds


def meet(cluster: Cluster, offer: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The chief's `offer`, once every worker has connected with an offer that does not differ from it.

    Raises FinetuneError on every worker where one differs, connects twice, or does not connect in time.
    """
    until = time.monotonic() + patience()
    if len(cluster.addresses) == 1:
        return offer
    return (_join if cluster.rank else _gather)(cluster, offer, until, say)


def _gather(cluster: Cluster, offer: dict[str, Any], until: float, say: Callable[[str], None]) -> dict[str, Any]:
    """The chief's side: the offer, once all others have sent theirs. Every worker that has connected gets an error."""
    others: dict[int, socket.socket] = {}
    reminded = time.monotonic() + _QUIET - _REMINDER
    with ExitStack() as open_sockets:
        server = open_sockets.enter_context(_listening(cluster))
        server.settimeout(0.5)

        def refuse(reason: str) -> FinetuneError:
            for other in others.values():
                _send(other, {"error": reason})
            return FinetuneError(reason)

        while len(others) < len(cluster.addresses) - 1:
            missing = [rank for rank in range(1, len(cluster.addresses)) if rank not in others]
            words = ", ".join(cluster.named(rank) for rank in missing)
            if time.monotonic() > until:
                raise refuse(
                    f"{words} did not come within {patience():g} s: start the same command there with its own index in "
                    "TF_CONFIG, and check name, port and firewall (FINETUNE_WAIT sets the seconds)"
                )
            if time.monotonic() > reminded + _REMINDER:
                say(f"waiting at {cluster.own} for {words}")
                reminded = time.monotonic()
            try:
                connection = open_sockets.enter_context(server.accept()[0])
            except TimeoutError:
                others = {rank: other for rank, other in others.items() if not _closed(other)}
                continue
            hello = _receive(connection, _HEARD)
            rank = (hello or {}).get("rank")
            if hello is None or type(rank) is not int:  # a port scanner, or a worker that has stopped since
                continue
            if hello.get("addresses") != list(cluster.addresses) or not 0 < rank < len(cluster.addresses):
                reason = f"worker {rank} has another cluster in its TF_CONFIG than worker 0: it must be the same on all"
            elif rank in others and not _closed(others[rank]):
                reason = f"two processes say they are {cluster.named(rank)}: each needs its own index in TF_CONFIG"
            else:
                reason = _objection(offer, hello.get("offer") or {}) or ""
                reason = reason and f"{cluster.named(rank)} and worker 0 do not run the same: {reason}"
            if reason:
                _send(connection, {"error": reason})
                raise refuse(reason)
            others[rank] = connection
        for other in others.values():
            _send(other, {"offer": offer})
    return offer


def _join(cluster: Cluster, offer: dict[str, Any], until: float, say: Callable[[str], None]) -> dict[str, Any]:
    """The side of the others: the chief's offer. A failed connection is repeated: the chief may start later."""
    with _listening(cluster):  # TensorFlow will need this port: a port in use is reported now
        pass
    hello = {"rank": cluster.rank, "addresses": list(cluster.addresses), "offer": offer}
    chief, reason = cluster.addresses[0], "no answer"
    reminded = time.monotonic() + _QUIET - _REMINDER
    while (left := until - time.monotonic()) > 0:
        try:
            with closing(socket.create_connection(split(chief), timeout=min(left, _HEARD))) as connection:
                _send(connection, hello)
                answer = _receive(connection, left)
        except OSError as error:
            reason, answer = error.strerror or str(error), None
        if answer is not None and "error" in answer:
            raise FinetuneError(str(answer["error"]))
        if answer is not None and isinstance(answer.get("offer"), dict):
            return dict(answer["offer"])
        if time.monotonic() > reminded + _REMINDER:
            say(f"waiting for {cluster.named(0)}")
            reminded = time.monotonic()
        time.sleep(min(0.3, max(left, 0.0)))
    raise FinetuneError(
        f"{cluster.named(0)} was not there within {patience():g} s ({reason}): start the same command there with index "
        "0 in TF_CONFIG, and check name, port and firewall (FINETUNE_WAIT sets the seconds)"
    )


def _listening(cluster: Cluster) -> socket.socket:
    """A server socket on this worker's port, for IPv6 as well where the system has it."""
    port = split(cluster.own)[1]
    try:
        if socket.has_dualstack_ipv6():
            with suppress(OSError):
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise FinetuneError(
            f"port {port} of {cluster.named(cluster.rank)} cannot be opened ({error.strerror}): stop what uses it, or "
            "give another in TF_CONFIG, on every worker"
        ) from None


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    """One JSON object on one line. A worker that has gone is noticed elsewhere."""
    with suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, seconds: float) -> dict[str, Any] | None:
    """One JSON object on one line; None where none arrives."""
    until, text = time.monotonic() + seconds, b""
    try:
        while not text.endswith(b"\n") and len(text) < _LARGEST:
            connection.settimeout(max(until - time.monotonic(), 1e-3))
            more = connection.recv(2**16)
            if not more:
                return None
            text += more
        message = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _closed(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection; nothing is read from it."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.setblocking(True)
