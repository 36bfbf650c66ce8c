"""Fine-tune a Keras model of your own: its head is found and swapped, its BatchNorm layers come under your control."""

import argparse
from pathlib import Path

import keras

from finetune.config import RunConfig
from finetune.training.start import start

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default="cifar10")
parser.add_argument("--examples", type=int)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--model", type=Path, help="your .keras file; default: a small network made here")
parser.add_argument("--run-dir", type=Path, default=Path("runs/own-model"))
options = parser.parse_args()

path = options.model
if path is None:
    path = Path("own.keras")
    keras.Sequential(
        [
            keras.layers.Input((32, 32, 3)),
            keras.layers.Conv2D(16, 3, strides=2, use_bias=False, name="stem"),
            keras.layers.BatchNormalization(name="stem_bn"),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(1000, name="old_head"),
        ]
    ).save(path)

config = RunConfig(
    str(path),
    data=options.data,
    examples=options.examples,
    epochs=options.epochs,
    image_size=32,
    preprocess="inception",  # what the model was trained on: no file says it
    freeze=("stem",),
    bn=("stem_bn=train",),  # a frozen convolution whose BatchNorm adapts
)
run = start(config, run_dir=options.run_dir)
model = keras.models.load_model(run.path / "model.keras")  # stock Keras layers: loads without finetune
print(model.output_shape, f"{run.read('result.json')['test']['is_training_false']['accuracy']:.1%}")
