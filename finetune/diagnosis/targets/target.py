"""A model with the data it is for and what is known of both: all that a diagnosis and its remedy need."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.batchnorm.subject import Snapshot, Subject
from finetune.data.evalset import EvalSet
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.rules.rule import Commands


@dataclass(frozen=True, eq=False)
class Target:
    """name: what the user called it. test: in the data's own order.

    training: at most so many training images, stratified and in random order; raises WrongUse for fewer than classes.
    source: the moving statistics training started from, where known. write: puts the subject as it now is into a new
    file, of the format that was read. copy: where that goes unless told otherwise; suffix: what its name must end in
    (None: it is a prefix, or a directory). notes: how the model was opened, for people. record: keeps the report of a
    diagnosis with the target.
    """

    name: str
    subject: Subject
    test: EvalSet
    training: Callable[[int], EvalSet]
    commands: Commands
    write: Callable[[Path], None]
    copy: Path
    suffix: str | None = ".keras"
    notes: tuple[str, ...] = ()
    source: Snapshot | None = None
    facts: Facts = field(default_factory=Facts)
    record: Callable[[dict[str, Any]], None] = lambda report: None
