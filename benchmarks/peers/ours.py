"""`finetune run`'s own loop, from its data to its update: `python ours.py '{"backbone": NAME, ...}'`, as a config."""

import json
import sys

from pace import Pace


class Told:
    """`finetune.training.loop.train.Observer`: hears each step."""

    def __init__(self, pace):
        self._pace = pace

    def on_step(self, *, epoch, step, steps, images, loss):
        self._pace.step(loss)

    def on_epoch(self, history):
        pass

    def on_averages(self, weights):
        pass

    def save(self, state):
        pass

    def stop_requested(self):
        return False


def main(settings):
    pace = Pace()
    import finetune  # noqa: F401
    from finetune.cli.startup import load_tensorflow

    load_tensorflow()
    from finetune.config import from_mapping
    from finetune.training.display import Display
    from finetune.training.loop.train import ImageFeed, train
    from finetune.training.prepare import prepare

    prepared = prepare(from_mapping(settings, where="the options"), Display(), load_weights=True)
    pace.ready()
    train(ImageFeed(prepared.model, prepared.dataset, prepared.config), prepared.config, Told(pace), save_seconds=1e9)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
