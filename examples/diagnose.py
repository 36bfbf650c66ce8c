"""Ask of a run, or of a Keras model with data, whether BatchNorm is to blame; repair it where recalibration helps."""

import argparse
from pathlib import Path

from finetune.diagnosis.doctor import diagnose, recalibrate_bn
from finetune.diagnosis.targets.opening import open_target
from finetune.diagnosis.targets.options import TargetOptions

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("target", type=Path, help="a run directory, or model.keras")
parser.add_argument("--data", help="for a model: folder with a folder per class")
parser.add_argument("--preprocess", help="for a model: what it was trained on; inception is x/127.5 - 1")
parser.add_argument("--out", type=Path, default=Path("recalibrated.keras"))
options = parser.parse_args()

target = open_target(TargetOptions(options.target, data=options.data, preprocess=options.preprocess))
diagnosis = diagnose(target)
print(f"verdict: {diagnosis.verdict.cause}")
scores = diagnosis.evidence.test
print(f"is_training=False {scores.is_training_false.accuracy:.1%}, True {scores.is_training_true.accuracy:.1%}")
repaired = recalibrate_bn(target, out=options.out)  # the model on the disk stays as it is
print(f"recalibrated: {repaired.before.accuracy:.1%} -> {repaired.after.accuracy:.1%}, in {options.out}")
