"""Read files that were changed on purpose, one after another, as a user's command would; tell how each ended.

    python hostile_reading.py SANDBOX

A line `{"reader": NAME, "path": PATH}` on standard input is answered by one on standard output: `outcome` is `read`,
`refused` (one of our own errors) or `broken` (any other exception, or something done that no reader may do), with
`words`, `seconds` of processor time and the most memory that was resident, `mib`. HOME, the working directory and the
cache lie in SANDBOX.
"""

import json
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.runs.directory import RunDir, read_config_file

SANDBOX = Path(sys.argv[1]).resolve()
_FOLDERS = {"HOME": "home", "FINETUNE_HOME": "cache", "TMPDIR": "tmp"}
for _variable, _name in _FOLDERS.items():
    os.environ[_variable] = str(SANDBOX / _name)
os.environ.update(FINETUNE_TRACEBACK="1", TF_CPP_MIN_LOG_LEVEL="3", MPLCONFIGDIR=str(SANDBOX / "cache/mpl"))
os.environ["KERAS_HOME"] = str(SANDBOX / "cache/keras")
os.chdir(SANDBOX / "cwd")

import numpy as np  # noqa: E402
from click.testing import CliRunner  # noqa: E402

from finetune.cli import main  # noqa: E402
from finetune.cli.startup import load_tensorflow  # noqa: E402

load_tensorflow()

import keras  # noqa: E402

from checkpoints.errors import UserError  # noqa: E402
from checkpoints.formats import hdf5  # noqa: E402
from finetune.backbone import open_model  # noqa: E402
from finetune.config import RunConfig, from_mapping  # noqa: E402
from finetune.data.image_files import read_images  # noqa: E402
from finetune.data.load_data import load_data  # noqa: E402
from finetune.errors import FinetuneError  # noqa: E402
from finetune.runs import model as models  # noqa: E402
from finetune.tf_graphs import open_exported, open_graph  # noqa: E402
from finetune.training.feature_cache import feature_store  # noqa: E402
from finetune.training.loop.state import State  # noqa: E402

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NEVER = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen"),
    *("socket.connect", "pickle.find_class", "os.kill", "webbrowser.open"),
)
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
_done: list[str] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and list(arguments[1])[:3] == [sys.executable, "-I", str(hdf5._TRIAL)]:
        return  # HDF5 is tried in a process of its own
    if event in _NEVER:
        _done.append(f"{event}{arguments!r}"[:200])
    elif event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
        for path in arguments[: 2 if event in ("os.rename", "os.symlink", "os.link") else 1]:
            if isinstance(path, str | bytes) and not _inside(os.fsdecode(path), arguments[-1]):
                _done.append(f"{event}{arguments!r}"[:200])


def _inside(path: str, folder: Any) -> bool:
    """folder: the descriptor a relative path starts at, as the last argument of these events is."""
    start = f"/proc/self/fd/{folder}" if isinstance(folder, int) and os.path.lexists(f"/proc/self/fd/{folder}") else ""
    real = os.path.realpath(os.path.join(start, path))
    return real == "/dev/null" or any(real.startswith(f"{SANDBOX / one}/") for one in ("cache", "tmp", "case"))


class Broken(Exception):
    """A command that ended as none may."""


def _typed(*words: str) -> None:
    """A command: its exit code says whether it was refused, and no line of it may steer a terminal."""
    result = CliRunner().invoke(main, list(words), prog_name="finetune")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    steering = [letter for letter in result.output if not letter.isprintable() and letter != "\n"]
    if steering:
        raise Broken(f"prints {steering[:5]!r} in {result.output[:300]!r}")
    if result.exit_code not in (0, 1, 2):
        raise Broken(f"exit code {result.exit_code}: {result.output[:300]}")
    if result.exit_code:
        raise FinetuneError(result.stderr)


def _checkpoint(path: Path) -> None:
    _typed("checkpoint", "inspect", str(path), "--all")


def _model(path: Path) -> None:
    model = open_model(path)
    model(np.zeros((1, *(side or 16 for side in model.input_shape[1:3]), 3), np.float32))


def _module(path: Path) -> None:
    from finetune.backbone.hub.module_layer import HubModule

    module = HubModule(str(path), 12)
    module(np.zeros((2, 12, 12, 3), np.float32))


def _exported(path: Path) -> None:
    subject = open_exported(path)
    subject.forward("moving")(np.zeros((2, 16, 16, 3), np.float32))


def _graph(path: Path) -> None:
    subject = open_graph(next(path.glob("*.meta")))
    for statistics in ("batch", "moving"):
        subject.forward(statistics)(np.zeros((8, 16, 16, 3), np.float32))


def _data(name: str | None) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        dataset = load_data(
            RunConfig("any", data=name or str(path), data_dir=str(path) if name else None, validation=0.0)
        )
        for split in (dataset.train, dataset.test):
            assert split.images[:].dtype == np.uint8
            assert split.labels.min() >= 0
            assert split.labels.max() < len(dataset.class_names)

    return read


def _image(path: Path) -> None:
    named = read_images([path], native=(16, 16))
    assert named.split.images[:].shape == (1, 16, 16, 3)


def _jobs(path: Path) -> None:
    _typed("batch", str(path), "--dry-run")


def _config(path: Path) -> None:
    from_mapping(read_config_file(path), where=str(path))


def _report(path: Path) -> None:
    _typed("report", str(path), "--quiet", "--html", str(SANDBOX / "tmp/page.html"))
    page = SANDBOX / "tmp/page.html"
    if "<script>alert" in page.read_text(encoding="utf-8"):
        raise Broken("the page has the script of a name")
    page.unlink()


def _snapshot(path: Path) -> None:
    run = RunDir.open(path)
    models.load_snapshot(run)
    run.epochs()


def _trained(path: Path) -> None:
    models.open_trained(path)


def _state(path: Path) -> None:
    run = RunDir.open(path)
    config = from_mapping(read_config_file(path / "config.json"), where=str(path))
    State.load(run.state_path).check_settings(config)


def _features(path: Path) -> None:
    """The cache is where FINETUNE_HOME says; entries are used as a run does, by the key it computes."""
    os.environ["FINETUNE_HOME"] = str(path)
    try:
        _typed("cache", "list")
        about = {"shape": [3], "dtype": "float32", "planned": 0}
        ids = np.array([b"a" * 16, b"b" * 16, b"c" * 16], "S16")
        with feature_store.opened("key", about, ids, budget=2**20) as entry:
            rows = entry.find(ids)
            entry.read(rows[rows >= 0])
    finally:
        os.environ["FINETUNE_HOME"] = str(SANDBOX / "cache")


READERS: dict[str, Callable[[Path], None]] = {
    "checkpoint": _checkpoint,
    "model": _model,
    "module": _module,
    "exported": _exported,
    "graph": _graph,
    "cifar10": _data("cifar10"),
    "cifar100": _data("cifar100"),
    "mnist": _data("mnist"),
    "data": _data(None),
    "image": _image,
    "jobs": _jobs,
    "config": _config,
    "report": _report,
    "snapshot": _snapshot,
    "trained": _trained,
    "state": _state,
    "features": _features,
}


def answer(reader: str, path: Path) -> dict[str, Any]:
    """How reading `path` ends."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    _done.clear()
    start = _seconds()
    outcome, words = "read", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            READERS[reader](path)
    except UserError as error:
        outcome, words = "refused", str(error)
        if not words.strip() or "Traceback" in words or "defect of finetune" in words:
            outcome = "broken"
    except BaseException:
        outcome, words = "broken", traceback.format_exc()[-3000:]
    seconds = _seconds() - start
    keras.backend.clear_session(free_memory=False)
    if _done:
        outcome, words = "broken", f"did {_done[:3]}; {words}"
    return {"outcome": outcome, "words": words, "seconds": seconds, "mib": _most_resident()}


def _seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _most_resident() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def serve() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    sys.addaudithook(_audit)
    answers.write(json.dumps({"ready": time.time()}) + "\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        answers.write(json.dumps(answer(asked["reader"], Path(asked["path"]))) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
