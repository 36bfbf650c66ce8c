"""What the figures were measured on, and what it could do at best."""

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version


def describe():
    """Processor, cores this process may use, instructions that matter, versions, date."""
    model, flags = platform.processor(), set()
    try:
        with open("/proc/cpuinfo") as file:
            lines = dict(line.strip().split(":", 1) for line in file if ":" in line)
        lines = {name.strip(): value.strip() for name, value in lines.items()}
        model, flags = lines.get("model name", model), set(lines.get("flags", "").split())
    except OSError:
        pass
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": [one for one in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if one in flags],
        "versions": {name: version(name) for name in ("tensorflow", "keras", "tf-slim", "numpy")},
    }


def peak(seconds=2.0):
    """GFLOP/s of a float32 matrix product of 2048 x 2048, the best of several."""
    import tensorflow as tf

    a = tf.random.normal([2048, 2048])
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, a)))
    product()
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(3):
            product().numpy()
        best = max(best, 3 * 2 * 2048**3 / (time.perf_counter() - began) / 1e9)
    return round(best, 1)


def operations(backbone, side):
    """GFLOP of a training step an image: three times the forward pass's products (forward, gradient of the input,
    gradient of the weights), from the shapes of the layers."""
    import keras

    from finetune.backbone import find_backbone, load_backbone

    model = load_backbone(find_backbone(backbone), image_size=side, from_scratch=True).model
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D | keras.layers.Conv2D | keras.layers.Dense):
            _, *places, _ = layer.output.shape
            size = 1
            for place in places:
                size *= place
            total += 2 * size * int(layer.kernel.shape.num_elements())
    return round(3 * total / 1e9, 3)
