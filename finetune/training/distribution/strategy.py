"""The use of `tf.distribute` by a run: variables on replicas, sums over replicas and workers, lost workers."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import WorkerLost, WrongUse
from finetune.training.distribution.cluster import Cluster

_CHUNK = 2**23
"""How many numbers of eight bytes are sent at once."""


class Distribution:
    """One process and one replica, unless there is a strategy.

    strategy: `MirroredStrategy` or `MultiWorkerMirroredStrategy`; a replica is one device, with a copy of every
        variable that is made inside `scope`.
    cluster: the processes of a multi-worker run. Every process must call the methods that sum or share, in the same
        order.
    is_chief: whether this process writes the files.
    local_replicas: replicas of this process, of all `replicas`.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None, cluster: Cluster | None = None) -> None:
        self._strategy, self.cluster = strategy, cluster
        self.replicas = int(strategy.num_replicas_in_sync) if strategy else 1
        self.workers = len(cluster.addresses) if cluster else 1
        self.rank = cluster.rank if cluster else 0
        self.is_chief = self.rank == 0
        self.local_replicas = self.replicas // self.workers
        self._sums: dict[Any, Callable[[tf.Tensor], tf.Tensor]] = {}

    def scope(self) -> AbstractContextManager[Any]:
        """Variables made inside have a copy on every replica."""
        return self._strategy.scope() if self._strategy else nullcontext()

    def check_batch(self, examples: int, batch_size: int) -> None:
        """WrongUse where the global batch cannot be divided evenly among the replicas."""
        size = min(examples, batch_size)
        if size % self.replicas == 0:
            return
        what = f"--batch-size {size} is" if size == batch_size else f"the {size} training images, one batch, are"
        near = max(size // self.replicas, 1) * self.replicas
        raise WrongUse(
            f"{what} not divisible by the {self.replicas} replicas: the batch size is that of the whole run; give "
            f"--batch-size {near}"
        )

    def on_replicas(self, function: Callable[..., Any], *values: tf.Tensor) -> Any:
        """`function` of each replica's equal part of `values`, in the order of their rows; returns the first's result.

        To be called while a step is traced. `values` are this process's share. `function` must return the same on
        every replica, for example a result of `all_sum`.
        """
        if self._strategy is None:
            return function(*values)

        def own(*values: tf.Tensor) -> Any:
            place = tf.distribute.get_replica_context().replica_id_in_sync_group % self.local_replicas

            def part(value: tf.Tensor) -> tf.Tensor:
                rows = tf.shape(value)[0] // self.local_replicas
                return value[place * rows : (place + 1) * rows]

            with tf.device("/device:CPU:0") if self.local_replicas > 1 else nullcontext():
                parts = [part(value) for value in values]
            return function(*parts)

        results = self._strategy.run(own, args=values)
        return tf.nest.map_structure(lambda result: self._strategy.experimental_local_results(result)[0], results)

    def all_sum(self, values: Any) -> Any:
        """Inside `on_replicas`: tensors summed over all replicas."""
        if self._strategy is None:
            return values
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)

    def sum_over_workers(self, values: list[float]) -> list[float]:
        """Numbers summed over the processes, in float64: whole ones exactly, up to 2^53."""
        return [float(value) for value in self._summed(np.asarray(values, np.float64))]

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        return self.sum_over_workers([float(flag)])[0] > 0 if self.workers > 1 else flag

    def share(self, value: Any) -> Any:
        """The chief's `value`, of JSON, in every process."""
        if self.workers == 1:
            return value
        text = json.dumps(value).encode() if self.is_chief else b""
        length = int(self.sum_over_workers([len(text)])[0])
        return json.loads(self._chiefs(text, length))

    def meet(self) -> None:
        """Wait until every process has called this."""
        self.any(False)

    def give_out(self, variables: list[Any]) -> None:
        """Copy the chief's values to every process, to the bit."""
        if self.workers == 1:
            return
        for variable in variables:
            value = np.array(variable)
            received = self._chiefs(value.tobytes(), value.nbytes)
            if not self.is_chief:
                variable.assign(np.frombuffer(received, value.dtype).reshape(value.shape))

    def part_seeds(self, model: Any) -> None:
        """Give every replica other random numbers: the state of dropout's seeds is shifted by the replica's number.

        The first replica's state is unchanged; it is the one that is saved.
        """
        states = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]
        if self._strategy is None or not states:
            return

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def part() -> None:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            for state in states:
                # The seed is the first of the two numbers, the second counts the draws.
                state.assign(state.value + tf.cast(tf.stack([number * _SEED_STEP, 0]), state.value.dtype))

        self._strategy.run(part)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raise WorkerLost, naming the worker, where an operation inside fails because another process is gone."""
        try:
            yield
        except tf.errors.OpError as error:
            if self.cluster is None or self.workers == 1 or not isinstance(error, _OF_OTHERS):
                raise
            raise WorkerLost(
                f"{self._lost(str(error))} has stopped or cannot be reached (what it printed last may say why)"
            ) from None

    def _lost(self, message: str) -> str:
        """The lost worker in words, from the tasks that TensorFlow's message names."""
        assert self.cluster is not None
        for job, task in re.findall(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)", message):
            with suppress(ValueError, IndexError):
                other = Cluster(self.cluster.jobs, job, int(task)).rank
                if other != self.rank:
                    return self.cluster.named(other)
        if self.workers == 2:
            return self.cluster.named(1 - self.rank)
        return f"{self.cluster.named(0)} or another" if self.rank else "another worker"

    def _chiefs(self, data: bytes, length: int) -> bytes:
        """`length` bytes of the chief, sent as integers. Those of other processes are 0, so the sum is exact."""
        padded = np.zeros(-(-length // 8), np.int64)
        if self.is_chief:
            padded.view(np.uint8)[:length] = np.frombuffer(data, np.uint8)
        parts = [self._summed(padded[start : start + _CHUNK]) for start in range(0, len(padded), _CHUNK)]
        return b"".join(part.tobytes() for part in parts)[:length]

    def _summed(self, values: np.ndarray) -> np.ndarray:
        """`values [n]` summed over the processes; each process counts once, however many replicas it has."""
        if self.workers == 1:
            return values
        strategy: Any = self._strategy
        if values.dtype not in self._sums:

            def own(value: tf.Tensor) -> tf.Tensor:
                context = tf.distribute.get_replica_context()
                counts = tf.cast(context.replica_id_in_sync_group % self.local_replicas == 0, value.dtype)
                return context.all_reduce(tf.distribute.ReduceOp.SUM, value * counts)

            def summed(value: tf.Tensor) -> tf.Tensor:
                return strategy.experimental_local_results(strategy.run(own, args=(value,)))[0]

            self._sums[values.dtype] = tf.function(summed, input_signature=[tf.TensorSpec([None], values.dtype)])
        return np.asarray(self._sums[values.dtype](values))


ALONE = Distribution()
"""One process, one replica."""

_SEED_STEP = 7919
"""Larger than the small seeds of the layers, so that no two layers get the same one."""

_OF_OTHERS = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
)
