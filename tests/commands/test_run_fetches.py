"""`finetune run --backbone NAME` as typed: the published archive is fetched, kept, and used again."""

import functools
import http.server
import json
import tarfile
import threading

import numpy as np
import pytest
from click.testing import CliRunner

from checkpoints.download import resumable
from checkpoints.formats.slim import write_slim
from finetune.backbone import networks
from finetune.backbone.networks.names import slim_variables
from finetune.cli import main


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server on loopback with random weights of mobilenet_v1_0.25 where the published ones would be."""
    folder = tmp_path / "served" / "models" / "mobilenet_v1_2018_08_02"
    folder.mkdir(parents=True)
    arguments = {"depth_multiplier": 0.25, "scope": "MobilenetV1"}
    network = networks.build("mobilenet_v1", image_size=32, outputs=1001, arguments=arguments)
    arrays = {name: np.asarray(variable) for name, variable in slim_variables(network.model).items()}
    arrays["global_step"] = np.array(7, np.int64)
    arrays["MobilenetV1/Conv2d_0/weights/RMSProp"] = np.zeros((3, 3, 3, 8), np.float32)
    prefix = tmp_path / "mobilenet_v1_0.25_224.ckpt"
    write_slim(prefix, arrays)
    with tarfile.open(folder / "mobilenet_v1_0.25_224.tgz", "w:gz") as archive:
        for ending in (".index", ".data-00000-of-00001"):
            archive.add(f"{prefix}{ending}", arcname=f"./{prefix.name}{ending}")
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=tmp_path / "served")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FINETUNE_MIRROR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "cache"))
    yield requests
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_run_fetches_once_and_reports_what_it_loaded(mirror, tmp_path):
    line = "run --backbone mobilenet_v1_0.25 --bn-decay 0.95 --freeze Conv2d_* --data demo-target --examples 60"
    arguments = [*line.split(), "--epochs", "1", "--image-size", "32", "--json"]
    for name in ("first", "second"):
        result = CliRunner().invoke(main, [*arguments, "--run-dir", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["bn"]["decay"] == 0.95
    assert mirror == ["/models/mobilenet_v1_2018_08_02/mobilenet_v1_0.25_224.tgz"]
    load = json.loads((tmp_path / "second" / "load.json").read_text())
    assert len(load["assigned"]) == 135
    assert sorted(name for names in load["ignored"].values() for name in names) == [
        "MobilenetV1/Conv2d_0/weights/RMSProp",
        "MobilenetV1/Logits/Conv2d_1c_1x1/biases",
        "MobilenetV1/Logits/Conv2d_1c_1x1/weights",
        "global_step",
    ]


def test_offline_one_message_names_both_files(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "cache"))
    # A port of this machine that nobody listens on: refused at once, as on a machine without a network.
    monkeypatch.setenv("FINETUNE_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setitem(resumable.fetch.__kwdefaults__, "first_wait", 0.01)
    result = CliRunner().invoke(main, ["run", "--backbone", "resnet_v1_101", "--bn-decay", "0.95"])
    assert result.exit_code == 1
    for words in ("resnet_v1_101_2016_08_28.tar.gz", "--checkpoint PATH", "cifar-10-python.tar.gz", "--data-dir PATH"):
        assert words in result.stderr
    assert result.stderr.count("Error:") == 1
    assert not (tmp_path / "runs").exists()
