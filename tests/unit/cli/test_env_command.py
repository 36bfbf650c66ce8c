import json

import keras
import numpy as np
import tensorflow as tf
from click.testing import CliRunner

from finetune.cli import main


def test_what_a_report_of_a_defect_needs(home, monkeypatch):
    monkeypatch.setenv("FINETUNE_THREADS", "1")
    found = json.loads(CliRunner().invoke(main, ["env", "--json"]).stdout)
    assert found["packages"]["tensorflow"] == tf.__version__
    assert found["packages"]["keras"] == keras.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert found["caches"]["weights"] == str(home)
    assert found["variables"]["FINETUNE_THREADS"] == "1"
    assert found["processors"] == 1
    assert "CPU 0" in found["devices"]
    assert set(found["extras"]) >= {"onnx", "mlflow", "ray", "tensorboard", "tfds"}


def test_it_is_read_by_people_too():
    text = CliRunner().invoke(main, ["env"]).stdout
    assert f"packages     tensorflow {tf.__version__}\n" in text
    assert max(map(len, text.splitlines())) < 200
