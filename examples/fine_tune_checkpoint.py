"""Fine-tune a slim checkpoint on your own folder of photos, a folder a class; print both test accuracies."""

import argparse
from pathlib import Path

from finetune.config import RunConfig
from finetune.training.start import start

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("photos", help="folder with a folder per class")
parser.add_argument("--backbone", default="resnet_v1_50")
parser.add_argument(
    "--checkpoint", help="slim V1 or V2 file, training directory or .tar.gz; default: the published one"
)
parser.add_argument("--epochs", type=int)
parser.add_argument("--image-size", type=int)
parser.add_argument("--run-dir", type=Path, default=Path("runs/photos-top"))
options = parser.parse_args()

config = RunConfig(
    options.backbone,
    checkpoint=options.checkpoint,
    data=options.photos,
    freeze=("block4=train", "*"),  # the last stage and the head train; BatchNorm below keeps ImageNet's statistics
    epochs=options.epochs,  # None, here and below: chosen by the number and the size of the images
    image_size=options.image_size,
)
run = start(config, run_dir=options.run_dir)
test = run.read("result.json")["test"]
print(f"is_training=False {test['is_training_false']['accuracy']:.1%}")  # with moving statistics: what you deploy
print(f"is_training=True  {test['is_training_true']['accuracy']:.1%}")  # with each batch's: close, if BatchNorm is well
