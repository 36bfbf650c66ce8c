"""A forward pass under moving statistics with BatchNorm as it is, and folded into the weights before it, in turn."""

import statistics
import time

import finetune  # noqa: F401  chooses how TensorFlow starts
from finetune.cli.startup import load_tensorflow

load_tensorflow()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from finetune.backbone import find_backbone, load_backbone  # noqa: E402
from finetune.inference.export.folding import fold  # noqa: E402

ROWS = (("keras/resnet50", 64), ("keras/mobilenet_0.25", 96), ("keras/densenet121", 64))


def main(rounds=10, passes=4):
    for name, side in ROWS:
        model = load_backbone(find_backbone(name), image_size=side, from_scratch=True).model
        images = tf.random.stateless_normal((32, side, side, 3), (0, 0))
        graphs = [tf.function(lambda x, m=m: m(x, training=False)) for m in (model, fold(model).model)]
        plain, folded = (graph(images).numpy() for graph in graphs)
        np.testing.assert_allclose(folded, plain, atol=1e-5 * np.abs(plain).max())
        times = [[], []]
        for _ in range(rounds):
            for graph, its in zip(graphs, times, strict=True):
                began = time.perf_counter()
                for _ in range(passes):
                    graph(images).numpy()
                its.append((time.perf_counter() - began) / passes)
        ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
        print(f"{name} at {side} px, batch 32: folded is {ratio:.3f} x as fast", flush=True)


if __name__ == "__main__":
    main()
