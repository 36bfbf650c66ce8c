"""`--diagnose-every`: a diagnosis every K epochs while a run trains, logged like any metric."""

from typing import Any

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Forward, Snapshot, Statistics
from finetune.data import batches
from finetune.data.batches import EvalSet, training_subset
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.measure import examine
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.verdict import judge
from finetune.training.prepare import Prepared

IMAGES = 1_000
"""Validation images examined, and training images: a checkup costs six passes over them."""


class _Traced(KerasSubject):
    """Each kind of statistics is traced once for all checkups: the weights change, the graph does not."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._forwards: dict[Statistics, Forward] = {}

    def forward(self, statistics: Statistics) -> Forward:
        """As `KerasSubject.forward`."""
        if statistics not in self._forwards:
            self._forwards[statistics] = super().forward(statistics)
        return self._forwards[statistics]


class Checkup:
    """Examines the model of a run on validation images (training images where none are held out), never on test images.

    `source` are the moving statistics the run started from.
    """

    def __init__(self, prepared: Prepared, source: Snapshot | None) -> None:
        config, dataset = prepared.config, prepared.dataset
        self._every, self._subject, self._source = config.diagnose_every, _Traced(prepared.model), source
        form = batches.form(config)
        images = max(IMAGES, len(dataset.class_names))
        self._train = EvalSet(training_subset(dataset.train, config, images), **form)
        self._held_out = EvalSet(dataset.validation, **form).some(IMAGES) if dataset.validation else self._train
        self._config = config

    def due(self, epoch: int) -> bool:
        """Whether a checkup follows `epoch`, counted from 1."""
        return bool(self._every) and epoch % (self._every or 1) == 0 and bool(self._subject.layers)

    def row(self, *, updates: int, batch: bool) -> dict[str, Any]:
        """`bn` of an epoch's row: the cause and its figures, accuracies as fractions. The model is unchanged.

        updates: of the moving statistics so far. batch: whether any layer normalises by batch statistics now.
        """
        evidence = examine(
            self._subject,
            test=self._held_out,
            train=self._train,
            source=self._source,
            facts=Facts(
                decay=float(self._config.bn_decay),
                updates=updates,
                updates_enabled=self._config.bn_updates == "on",
                trained_with="batch" if batch else "moving",
                weights_moved=True,
                batch_size=self._config.batch_size,
            ),
            extent="quick",
        )
        verdict = judge(evidence, Commands("RUN"))
        modes = evidence.test
        return {
            "cause": verdict.cause,
            "is_training_false": modes.is_training_false.accuracy,
            "is_training_true": modes.is_training_true.accuracy,
            "recalibrated": modes.recalibrated.accuracy,
            "images": modes.is_training_false.examples,
            "largest_mean_shift": max(layer.mean_shift for layer in evidence.layers),
            "share_left": evidence.shares[0].share if evidence.shares else None,
        }
