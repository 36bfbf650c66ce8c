"""Transfer pretrained image backbones to new data, with BatchNorm done right."""

import os

from finetune._version import __version__ as __version__
from finetune.errors import WrongUse
from finetune.process import cores

# These must be set before TensorFlow is imported. oneDNN is off by default on CPUs without AVX-512, which makes
# convolution gradients three times slower. Keras 3 reads its backend once. Log level 3 hides the errors of
# TensorFlow's log: a real one also raises an exception, and the others are noise (node_def_util, --deterministic).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"


def limit_threads() -> None:
    """Limit the libraries that are not loaded yet to FINETUNE_THREADS threads, if that is set.

    Several processes may share a machine, and TensorFlow would use every core in each of them; so would OpenMP and
    OpenBLAS, which NumPy uses. Variables that are already set are kept.
    """
    if not os.environ.get("FINETUNE_THREADS"):
        return
    try:
        threads = str(cores())
    except WrongUse:  # an import must not fail; every command and every run reports the wrong value
        return
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, threads)


limit_threads()
