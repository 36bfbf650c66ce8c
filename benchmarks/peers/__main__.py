"""Us and the peers on the same images, in turn; ratios, `benchmarks/RESULTS.md` and `benchmarks/results.json`.

`python -m benchmarks.peers [--rows resnet50,head] [--torch-python PATH]`. PyTorch is no dependency: make an environment
with torch 2.13.0 and numpy, and give its interpreter.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import finetune  # noqa: F401  chooses how TensorFlow starts
from benchmarks.peers import machine, results, rows, whole
from benchmarks.peers.conductor import race
from finetune.cli.startup import load_tensorflow

ROWS = (*rows.FULL, *whole.ROWS)


def main(words=None):
    options = _options(words)
    load_tensorflow()
    found = results.read(options.json)
    found["machine"] = machine.describe()
    with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
        work = Path(scratch)
        for name in options.rows:
            found["rows"][name] = _full(name, work, options) if name in rows.FULL else _whole(name, work, options)
            results.write(found, options.json, options.markdown)
            print(results.text(name, found["rows"][name]), flush=True)
    if options.compare:
        print(results.comparison(results.read(options.compare), found))


def _options(words):
    here = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(ROWS), help=",".join(ROWS))
    parser.add_argument("--data-dir", type=Path, help="holds cifar-10-batches-py; without, generated images")
    parser.add_argument("--torch-python", help="an interpreter with torch; without, PyTorch is left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="of a round")
    parser.add_argument("--size", type=int, help="another side in px for every row: to try it")
    parser.add_argument("--examples", type=int, default=10_000, help="of the rows of whole commands")
    parser.add_argument("--json", type=Path, default=here / "results.json")
    parser.add_argument("--markdown", type=Path, default=here / "RESULTS.md")
    parser.add_argument("--compare", type=Path, help="an earlier results.json")
    options = parser.parse_args(words)
    unknown = set(options.rows) - set(ROWS)
    if unknown:
        parser.error(f"no row is called {', '.join(sorted(unknown))}: expected some of {', '.join(ROWS)}")
    return options


def images(options, count, path):
    """CIFAR-10's first images, or generated ones: `.npz` with x_train, y_train, x_test, y_test."""
    rng = np.random.default_rng(0)
    if options.data_dir is None:
        x = rng.integers(0, 256, (count + 500, 32, 32, 3), dtype=np.uint8)
        y = rng.integers(0, 10, count + 500)
    else:
        from finetune.data.load_data import read_source
        from finetune.data.sources.assembly import ReadOptions

        data = read_source("cifar10", ReadOptions(Path(options.data_dir)))
        x = np.concatenate([data.train.images[:count], data.test.images[:500]])
        y = np.concatenate([data.train.labels[:count], data.test.labels[:500]])
    np.savez(path, x_train=x[:count], y_train=y[:count], x_test=x[count:], y_test=y[count:])
    return path


def _full(name, work, options):
    images(options, 2048, work / "images.npz")
    contenders = rows.full(name, work, options.torch_python, size=options.size)
    found = race(contenders, rounds=options.rounds, steps=options.steps, batch=32)
    _, _, _, backbone, side, goal = rows.FULL[name]
    return {
        "what": f"full fine-tuning, {backbone}, {options.size or side} px, batch 32",
        "unit": "images/s",
        "goal": goal,
        "data": "CIFAR-10" if options.data_dir else "generated images",
        "gflop_an_image": machine.operations(backbone, options.size or side),
        "peak_gflops": machine.peak(),
        "contenders": found,
    }


def _whole(name, work, options):
    path = images(options, options.examples, work / "many.npz")
    return whole.row(name, path, work, options)


if __name__ == "__main__":
    main()
