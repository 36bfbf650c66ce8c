"""What a diagnosis costs, against the three evaluation passes it contains.

MobileNet v1 0.25 with ImageNet weights, its head trained on CIFAR-10 (BN frozen) so that the model is healthy; with
`--ill` the same, its moving statistics at 0 and 1, which calls for every further check. Each way is timed several
times in turn, and the medians are compared.
"""

import argparse
import statistics
import time
from pathlib import Path

from finetune.cli.startup import load_tensorflow
from finetune.data.batches import training_subset


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="holds cifar-10-batches-py/")
    parser.add_argument("--keras-weights", required=True, help="mobilenet_2_5_224_tf_no_top.h5")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--test-images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ill", action="store_true", help="a model whose moving statistics are 0 and 1")
    arguments = parser.parse_args()
    load_tensorflow()
    from finetune.batchnorm.statistics import KerasSubject, write_moving
    from finetune.batchnorm.subject import kept
    from finetune.config import RunConfig
    from finetune.data import batches
    from finetune.data.batches import EvalSet
    from finetune.data.dataset import stratified_subset
    from finetune.diagnosis import TRAINING_IMAGES
    from finetune.diagnosis.drift import initial
    from finetune.diagnosis.measure import examine
    from finetune.diagnosis.rules.rule import Commands
    from finetune.diagnosis.verdict import judge
    from finetune.evaluation.evaluator import Evaluator
    from finetune.training.display import Display
    from finetune.training.loop.train import ImageFeed, Observer, train
    from finetune.training.prepare import prepare

    config = RunConfig(
        "keras/mobilenet_0.25", checkpoint=arguments.keras_weights, data_dir=arguments.data_dir, examples=4000,
        validation=0.0, image_size=arguments.image_size, freeze=("*",), bn=("freeze",), epochs=2, batch_size=64,
    )  # fmt: skip
    prepared = prepare(config, Display(), load_weights=True)
    model, config = prepared.model, prepared.config
    train(ImageFeed(model, prepared.dataset, config), config, Observer())
    form = batches.form(config)
    test = EvalSet(stratified_subset(prepared.dataset.test, arguments.test_images, 0), **form)
    subset = EvalSet(training_subset(prepared.dataset.train, config, TRAINING_IMAGES), **form)
    subject = KerasSubject(model)
    if arguments.ill:
        subject.restore({name: initial(pair) for name, pair in subject.snapshot().items()})

    def passes():
        """is_training=False, True, and recalibrated, on test and training images, as separate evaluations."""
        evaluator = Evaluator(subject)
        with kept(subject):
            for images in (test, subset):
                evaluator.evaluate(images.batches(), "moving")
                evaluator.evaluate(images.batches(), "batch")
            write_moving(subject, evaluator.examine(subset.batches(), "batch").moments)
            for images in (test, subset):
                evaluator.evaluate(images.batches(), "moving")

    def evaluations():
        """The three passes alone: recalibration for nothing, as the pooled statistics come from the second pass."""
        evaluator = Evaluator(subject)
        for statistics_ in ("moving", "batch", "moving"):
            for images in (test, subset):
                evaluator.evaluate(images.batches(), statistics_)

    def diagnosis():
        evidence = examine(subject, test=test, train=subset)
        checked = [name for name in ("preprocessing", "batches") if getattr(evidence, name) is not None]
        return f"{judge(evidence, Commands('MODEL')).cause}, further checks: {', '.join(checked) or 'none'}"

    times = {what.__name__: [] for what in (evaluations, passes, diagnosis)}
    processor = {name: [] for name in times}
    for _ in range(arguments.rounds):
        for what in (evaluations, passes, diagnosis):
            started, worked = time.monotonic(), time.process_time()
            said = what()
            times[what.__name__].append(time.monotonic() - started)
            processor[what.__name__].append(time.process_time() - worked)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    worked = {name: statistics.median(seconds) for name, seconds in processor.items()}
    print(
        f"{Path(arguments.keras_weights).name}, {arguments.image_size} px, {len(test)} test and {len(subset)} training"
    )
    print(f"three evaluation passes   {medians['evaluations']:6.1f} s")
    print(f"  with recalibration      {medians['passes']:6.1f} s")
    print(f"diagnosis                 {medians['diagnosis']:6.1f} s   {said}")
    print(f"ratio                     {medians['diagnosis'] / medians['evaluations']:6.2f}   (at most 1.5)")
    print(f"  of processor seconds    {worked['diagnosis'] / worked['evaluations']:6.2f}   (for a busy machine)")


if __name__ == "__main__":
    main()
