"""Real transfer on CIFAR-10 with real weights: ours with default settings against a plain Keras recipe.

Every run is a process of its own, one after another; the plain recipe gets as much training time as our slower run.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

PLAIN = Path(__file__).with_name("plain_keras.py")


def ours(backbone, checkpoint, data_dir, folder):
    options = ["--backbone", backbone, "--checkpoint", checkpoint, "--data-dir", data_dir, "--image-size", "96"]
    command = [sys.executable, "-m", "finetune", "run", *options, "--run-dir", str(folder), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


@click.command()
@click.option("--data-dir", required=True, help="Holds cifar-10-batches-py/.")
@click.option("--keras-weights", required=True, help="mobilenet_2_5_224_tf_no_top.h5")
@click.option("--slim-checkpoint", required=True, help="mobilenet_v1_0.25_224.ckpt")
def main(data_dir, keras_weights, slim_checkpoint):
    with tempfile.TemporaryDirectory() as folder:
        results = {
            name: ours(name, checkpoint, data_dir, Path(folder) / str(index))
            for index, (name, checkpoint) in enumerate(
                [("keras/mobilenet_0.25", keras_weights), ("slim/mobilenet_v1_0.25", slim_checkpoint)]
            )
        }
    rows = [
        (
            f"finetune run --backbone {name}",
            result["epochs"],
            result["train_seconds"],
            result["test"]["is_training_false"]["accuracy"],
            f"{result['train_images'] * result['epochs'] / result['train_seconds']:.0f} images/s, "
            f"peak {result['peak_memory_mib']:.0f} MiB",
        )
        for name, result in results.items()
    ]
    budget = max(result["train_seconds"] for result in results.values())
    # The peer on its best behaviour: with oneDNN, which TensorFlow leaves off on some CPUs.
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    plain = subprocess.run(
        [sys.executable, str(PLAIN), data_dir, keras_weights, str(budget)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ).stdout
    for row in json.loads(plain.splitlines()[-1]):
        rows.append((f"plain Keras, {row['epochs']} epochs", row["epochs"], row["train_seconds"], row["accuracy"], ""))
    click.echo("| what | epochs | training s | test accuracy | |\n|---|---|---|---|---|")
    for what, epochs, seconds, accuracy, more in rows:
        click.echo(f"| {what} | {epochs} | {seconds:.0f} | {accuracy:.1%} | {more} |")


if __name__ == "__main__":
    main()
