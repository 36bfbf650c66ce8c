"""From `--distribute` to a `Distribution`: the devices of this machine, or the workers of a cluster."""

import json
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from finetune.errors import FinetuneError
from finetune.training.distribution.cluster import from_environment
from finetune.training.distribution.rendezvous import meet
from finetune.training.distribution.strategy import Distribution, restore_signals

_PLACES = ("data_dir", "checkpoint")
"""Settings that may differ between workers: the paths of files on each."""


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


def multi_worker(
    settings: dict[str, Any] | None, command: str, say: Callable[[str], None]
) -> tuple[Distribution, dict[str, Any]]:
    """The workers of TF_CONFIG or Slurm, connected; and the chief's `settings` (JSON values), with this worker's paths.

    To be called before TensorFlow computes anything. `settings` None: this worker accepts any settings of the chief.
    Raises WrongUse and FinetuneError on every worker where the workers do not agree.
    """
    cluster = from_environment()
    gpus = len(tf.config.list_physical_devices("GPU"))
    offer = {"command": command, "version": _versions(), "gpus": gpus, "settings": settings}
    offer = json.loads(json.dumps(offer))  # as the other workers receive it: tuples become lists
    agreed = meet(cluster, offer, objection=_objection, say=say)["settings"] or {}
    spec = tf.train.ClusterSpec({job: list(addresses) for job, addresses in cluster.jobs.items()})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec,
        task_type=cluster.job,
        task_id=cluster.index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
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
            f"{cluster.named(cluster.rank)} cannot be connected with the others ({_first_line(error)}): check that "
            "they can reach each other at the addresses in TF_CONFIG, and start all of them again"
        ) from None
    finally:
        restore_signals()
    own = {name: value for name, value in (settings or {}).items() if name in _PLACES}
    return Distribution(strategy, cluster), {**agreed, **own}


def _versions() -> str:
    from finetune._version import __version__

    return f"finetune {__version__}, TensorFlow {tf.__version__}"


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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
