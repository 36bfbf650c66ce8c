"""Which contenders there are for which network, and what we want to be."""

import json
import sys
from pathlib import Path

from benchmarks.peers.conductor import Contender

FULL = {
    # row: (network of Keras, network of slim, depth of PyTorch's, our backbone, side in px, goal over the best peer)
    "resnet50": ("resnet50", None, "50", "keras/resnet50", 64, 1.25),
    "resnet_v1_50": (None, "resnet_v1_50", "50-slim", "resnet_v1_50", 64, 1.25),
    "resnet_v1_101": (None, "resnet_v1_101", "101-slim", "resnet_v1_101", 64, 1.1),
    "mobilenet": ("mobilenet_0.25", None, None, "keras/mobilenet_0.25", 96, 1.1),
    "densenet121": ("densenet121", None, None, "keras/densenet121", 64, 1.1),
    "inception_v3": ("inception_v3", "inception_v3", None, "keras/inception_v3", 96, 1.1),
}
"""Full fine-tuning, batches of 32. Peers of a row train the same network: slim's ResNets stride in a stage's last unit,
Keras's in its first, and have a tenth more to compute."""


def full(row, work, torch_python, *, size=None):
    """The contenders of a row of FULL, ours first. `work` holds images.npz and gets the weights to start from."""
    keras_name, slim_name, depth, backbone, side, _ = FULL[row]
    images, side = str(work / "images.npz"), str(size or side)
    shared = backbone.startswith("keras/")
    weights = [str(initial_weights(keras_name, int(side), work, work / "images.npz"))] if shared else []
    band = 0.05 if shared else 0.25
    settings = {
        "backbone": backbone, "data": images, "image-size": int(side), "batch-size": 32, "epochs": 100000,
        "validation": 0.0, "augment": "none", "optimizer": "sgd", "learning-rate": 1e-3, "schedule": "constant",
        "weight-decay": 0.0, "bn-decay": 0.99, "recalibrate-at-end": False,
        **({"checkpoint": weights[0]} if shared else {"from-scratch": True}),
    }  # fmt: skip
    onednn = "TF_ENABLE_ONEDNN_OPTS"
    found = [Contender("finetune", ("ours.py", json.dumps(settings)))]
    if keras_name is not None:
        recipe = ("keras_recipe.py", keras_name, images, side, "all", *weights)
        found.append(Contender("Keras, as it comes", recipe, {onednn: None}, band=band))
        found.append(Contender("Keras, oneDNN on", recipe, {onednn: "1"}, band=band))
        if row == "resnet50":  # what TensorFlow does by itself on processors without AVX-512
            found.append(Contender("Keras, oneDNN off", recipe, {onednn: "0"}, band=band))
    if slim_name is not None:
        loop = ("slim_loop.py", slim_name, images, side)
        legacy = {"TF_USE_LEGACY_KERAS": "1"}
        found.append(Contender("tf_slim, as it comes", loop, {onednn: None, **legacy}, band=0.25))
        found.append(Contender("tf_slim, oneDNN on", loop, {onednn: "1", **legacy}, band=0.25))
    if depth is not None and torch_python is not None:
        start = [weights[0].replace(".weights.h5", ".npz")] if shared else []
        for how in ("eager", "channels-last", "compile"):
            command = ("torch_resnet.py", depth, images, side, how, "all", *start)
            found.append(Contender(f"PyTorch, {how}", command, python=torch_python, band=band))
    return found


def initial_weights(name, side, work, images):
    """Random weights of a network of Keras that all contenders start from: `.weights.h5`, and beside it `.npz`.

    BatchNorm's statistics are those of the first of `images`: with others what is frozen would explode.
    """
    path = Path(work) / f"{name}-{side}.weights.h5"
    if not path.exists():
        import keras
        import numpy as np

        sys.path.insert(0, str(Path(__file__).parent))
        from keras_recipe import MODELS

        keras.utils.set_random_seed(0)
        build, preprocess, extra = MODELS[name]
        model = build(weights=None, include_top=False, input_shape=(side, side, 3), **extra)
        with np.load(images) as file:
            pixels = keras.ops.image.resize(file["x_train"][:256].astype("float32"), (side, side))
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        model(preprocess(np.array(pixels)), training=True)
        model.save_weights(path)
        values = {f"{layer.name}/{one.name}": np.array(one) for layer in model.layers for one in layer.weights}
        np.savez(str(path).replace(".weights.h5", ".npz"), **values)
    return path
