"""Export a run with its preprocessing built in, each file put through its own runtime, and classify photos with it."""

import argparse
from pathlib import Path

from finetune.inference.export.exported import TrialOptions
from finetune.inference.export.write import export
from finetune.inference.predict import PredictOptions, predict

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", type=Path)
parser.add_argument("images", type=Path, nargs="+", help="image files and folders")
parser.add_argument("--out", type=Path, default=Path("export"))
parser.add_argument("--test-images", type=int, help="how many test images each file is scored on; default: all")
options = parser.parse_args()

trial = TrialOptions(images=options.test_images)
written = export(options.run, options.out, forms=["keras", "tflite"], with_preprocessing=True, evaluation=trial)
for file in written.to_json()["exports"]:
    print(file)
for photo in predict(options.run, options.images, PredictOptions(top=3)).images:
    print(photo.image, ", ".join(f"{name} {probability:.1%}" for _, name, probability in photo.classes))
