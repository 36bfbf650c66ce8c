"""Transfer pretrained image backbones to new data, with BatchNorm done right.

`finetune.diagnose_bn(model, test=..., train=...)` says whether BatchNorm is to blame, `finetune.recalibrate_bn` repairs
it, `finetune.run` fine-tunes a backbone, and `finetune.transfer` gives a pretrained Keras model to train with `fit`.

Importing this package loads no TensorFlow and changes no setting of the process: what a name needs is loaded when it is
first used.
"""

import sys
from typing import TYPE_CHECKING, Any

from finetune._version import __version__ as __version__
from finetune.errors import FinetuneError, Interrupted, WrongUse

if TYPE_CHECKING:
    from finetune.api import (
        Diagnosis,
        Recalibration,
        Run,
        average,
        check_data,
        diagnose_bn,
        evaluate,
        open_run,
        recalibrate_bn,
        resume,
        run,
        transfer,
    )
    from finetune.diagnosis.monitor import BatchNormMonitor

__all__ = [
    "BatchNormMonitor",
    "Diagnosis",
    "FinetuneError",
    "Interrupted",
    "Recalibration",
    "Run",
    "WrongUse",
    "average",
    "check_data",
    "diagnose_bn",
    "evaluate",
    "open_run",
    "recalibrate_bn",
    "resume",
    "run",
    "transfer",
]


def require_posix() -> None:
    """FinetuneError on Windows, which lacks the file locks and signals that runs rely on."""
    if sys.platform == "win32":
        raise FinetuneError(
            "finetune runs on Linux and macOS, and this is Windows: install WSL 2 ('wsl --install') and use it there"
        )


def __getattr__(name: str) -> Any:
    """A public name, from the module that has it (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'finetune' has no attribute '{name}'")
    require_posix()
    if name == "BatchNormMonitor":  # a class of Keras's, which is imported with it
        from finetune.process import require_tensorflow

        require_tensorflow()
        from finetune.diagnosis import monitor

        return monitor.BatchNormMonitor
    from finetune import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
