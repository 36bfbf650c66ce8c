"""Transfer pretrained image backbones to new data, with BatchNorm done right."""

import os

from finetune._version import __version__ as __version__

# These must be set before TensorFlow is imported: oneDNN is off by default on CPUs without AVX-512, which costs a
# factor of three in convolution gradients, and Keras 3 reads its backend once. Log level 3: what TensorFlow calls an
# error in its log is an exception as well where it is one, and noise where it is not (node_def_util, --deterministic).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"


def limit_threads() -> None:
    """Have libraries, those not loaded yet, use FINETUNE_THREADS threads, where several processes share a machine.

    TensorFlow would take every core for each of them; OpenMP and OpenBLAS, which NumPy uses, likewise. What is already
    set wins.
    """
    if os.environ.get("FINETUNE_THREADS", "").isdigit():
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, os.environ["FINETUNE_THREADS"])


limit_threads()
