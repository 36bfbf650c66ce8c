"""`finetune features` as typed."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from finetune.data import load_data
from tests.support.commands import tree, typed


@pytest.mark.slow
def test_a_runs_layer_over_its_test_images(finished: tuple, tmp_path: Path) -> None:
    run, _ = finished
    out = tmp_path / "new" / "f.npz"
    result = typed(f"features {run} --layer resnet_v1_demo/block2 --out {out} --json")
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    assert written["layer"] == "resnet_v1_demo.block2.unit_2.bottleneck_v1"
    arrays = np.load(out, allow_pickle=False)
    test = load_data._GENERATED["demo-target"]().test
    assert arrays["features"].shape == (1000, 128)
    assert arrays["features"].dtype == np.float32
    assert np.array_equal(arrays["labels"], test.labels)
    assert arrays["class_names"].tolist() == json.loads((run / "result.json").read_text())["class_names"]
    assert arrays["paths"][7] == "test/7"
    model = keras.models.load_model(run / "model.keras")
    part = keras.Model(model.input, model.get_layer(written["layer"]).output)
    small = np.asarray(keras.ops.image.resize(test.images[-3:].astype(np.float32), (16, 16), antialias=True))
    maps = np.asarray(part(small / 127.5 - 1, training=False))
    assert np.allclose(arrays["features"][-3:], maps.mean(axis=(1, 2)), atol=1e-4)
    again = typed(f"features {run} --layer block2 --out {out}")
    assert (again.exit_code, "is already there" in again.stderr) == (2, True)


def test_a_backbones_maps_of_image_files(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{number}.png")
    result = typed(
        f"features resnet_v1_demo {tmp_path}/photos --layer conv1 --pool none --image-size 20 --batch-size 2 "
        f"--out {tmp_path}/f.npz"
    )
    assert result.exit_code == 0, result.output
    arrays = np.load(tmp_path / "f.npz", allow_pickle=False)
    assert arrays["features"].shape == (3, 20, 20, 16)
    assert arrays["features"].min() >= 0  # slim's end point is the convolution with its ReLU
    assert arrays["labels"].tolist() == [-1, -1, -1]
    assert [Path(one).name for one in arrays["paths"]] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("line", "exit_code", "words"),
    [
        ("features RUN --layer blok2 --out OUT/f.npz", 2, "did you mean block2"),
        ("features RUN --layer block2 --out OUT/f.npy", 2, "expected a name that ends in .npz"),
        ("features RUN --layer block2 --image-size 8 --out OUT/f.npz", 2, "--image-size: RUN is a run"),
        ("features resnet_v1_demo --layer block2 --out OUT/f.npz", 2, "missing the images"),
        ("features resnet_v1_demo OUT --data demo-target --layer block2 --out OUT/f.npz", 2, "two sources of images"),
        ("features resnet_v1_dem --data demo-target --layer block2 --out OUT/f.npz", 2, "did you mean"),
    ],
)
def test_bad_input_is_one_message_and_no_file(
    line: str, exit_code: int, words: str, finished: tuple, tmp_path: Path
) -> None:
    run = str(finished[0])
    result = typed(line.replace("RUN", run).replace("OUT", str(tmp_path)))
    assert result.exit_code == exit_code, result.output
    assert words.replace("RUN", run) in result.stderr
    assert result.stderr.count("Error:") == 1
    assert tree(tmp_path) == {}
