"""Open what `finetune.diagnose_bn` and `finetune.recalibrate_bn` are given."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.diagnosis import TRAINING_IMAGES
from finetune.diagnosis.targets.in_memory import Given, open_keras, open_session
from finetune.diagnosis.targets.opening import Target, open_target
from finetune.diagnosis.targets.options import TargetOptions
from finetune.errors import WrongUse

_PLACES = ("checkpoint", "meta_graph", "architecture", "data_dir", "source_checkpoint")


@contextmanager
def opened(
    model: Any,
    session: Any,
    test: Any,
    train: Any,
    images: Any,
    preprocess: Any,
    batch_size: int | None,
    options: dict[str, Any],
) -> Iterator[Target]:
    """What a caller named, as a target: a path, a model in memory, or a session. The arguments are those of
    `finetune.diagnose_bn`. WrongUse for arguments that do not go together."""
    if (model is None) == (session is None):
        raise WrongUse("expected a model or a session: give one of them")
    if isinstance(model, str | Path):
        if test is not None or train is not None:
            raise WrongUse(f"{model} is a path, whose data is read: give data, not test and train")
        known = {name: options.pop(name) for name in list(options) if name in TargetOptions.__dataclass_fields__}
        _refuse(options)
        places = {name: Path(known[name]) for name in _PLACES if known.get(name) is not None}
        yield open_target(
            TargetOptions(Path(model), **{**known, **places}, preprocess=preprocess, batch_size=batch_size)
        )
        return
    if train is None:
        raise WrongUse("missing train: recalibrated statistics are measured on training images; give some")
    if session is not None:
        names = {name: options.pop(name, None) for name in ("logits", "is_training", "feeds")}
        _refuse(options)
        if images is None or type(images) is int or names["logits"] is None:
            raise WrongUse("a session needs images= and logits=: its graph's input and output tensors, or their names")
        names["feeds"] = names["feeds"] or {}
        given = Given(test, train, TRAINING_IMAGES, preprocess, batch_size)
        with open_session(session, given, images=images, **names) as target:
            yield target
        return
    output = options.pop("output", None)
    _refuse(options)
    yield open_keras(model, Given(test, train, images, preprocess, batch_size), output=output)


def _refuse(options: Mapping[str, Any]) -> None:
    """WrongUse for arguments that are left over."""
    if options:
        raise WrongUse(f"unknown argument {next(iter(options))}: see help(finetune.diagnose_bn)")
