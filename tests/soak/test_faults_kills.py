"""Downloads, archives, exports, pages, summaries and features whose process is killed at any moment: the next call ends
right, and nothing else is left."""

import functools
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.soak.killed_process import Ended, Killable
from tests.soak.run_content import SETTINGS, leftovers
from tests.soak.small_server import BODY

DELAYS = (0, 0.2, 1, 5)


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    process = Killable(tmp_path_factory.mktemp("kills"))
    yield process
    process.close()


@pytest.fixture(scope="module")
def runs(finetune: Killable, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` and `b`, jobs of `jobs.toml`, and `slim`, which takes every format."""
    place = tmp_path_factory.mktemp("runs")
    settings = SETTINGS.replace("--epochs 3", "--epochs 1")
    for name in ("a", "b"):
        rate = 0.01 if name == "a" else 0.02
        line = f"run --backbone {backbone} {settings.replace('0.01', str(rate))} --run-dir {place / name}"
        assert finetune(line).code == 0
    ended = finetune(f"run --backbone resnet_v1_demo {settings} --image-size 32 --run-dir {place / 'slim'}")
    assert ended.code == 0, ended.output
    (place / "jobs.toml").write_text(
        f'[defaults]\nbackbone = "{backbone}"\ndata = "demo-target"\nexamples = 60\nepochs = 1\nimage_size = 12\n'
        "batch_size = 10\ndeterministic = true\n"
        '[[job]]\nname = "a"\nlearning_rate = 0.01\n[[job]]\nname = "b"\nlearning_rate = 0.02\n'
    )
    return place


def killed(finetune: Killable, call: Callable[..., Ended], right: Callable[[Ended], None], kills: int) -> int:
    """Kill `call` at `kills` moments, at least once at every event where they are enough; `right` looks at the end of
    the call after each. How many were killed."""
    folder = finetune.folder
    shutil.rmtree(folder)
    folder.mkdir()
    whole = call()
    assert whole.code == 0, whole.output
    right(whole)
    rng, count, done = random.Random(9), len(whole.events), 0
    assert count
    for number in range(kills):
        shutil.rmtree(folder)
        folder.mkdir()
        event = number % count + 1 if kills >= count else rng.randint(1, count)
        ended = call(kill=(event, DELAYS[number // count % len(DELAYS)] if kills >= count else rng.choice(DELAYS)))
        done += ended.killed
        try:
            right(call())
            assert leftovers(folder) == []
        except Exception as error:
            error.add_note(f"killed at {whole.events[event - 1]}")
            raise
    return done


def check_download(finetune: Killable, address: str, kills: int) -> int:
    files = finetune.home / "files"

    def right(ended: Ended) -> None:
        assert ended.code == 0, ended.output
        assert (files / "weights.bin").read_bytes() == BODY
        assert sorted(one.name for one in files.iterdir()) == ["weights.bin", "weights.bin.json"]
        record = json.loads((files / "weights.bin.json").read_text())
        assert record["sha256"] == hashlib.sha256(BODY).hexdigest()

    return killed(finetune, functools.partial(finetune, fetch=f"{address}/weights.bin"), right, kills)


def check_archive(finetune: Killable, address: str, kills: int) -> int:
    program = (
        "from checkpoints.cache.archive import unpack; from checkpoints.download.resumable import fetch\n"
        f"unpack(fetch('{address}/net.tar.gz', first_wait=0.01))"
    )

    def right(ended: Ended) -> None:
        assert ended.code == 0, ended.output
        (unpacked,) = (finetune.home / "unpacked").iterdir()
        parts = sorted((unpacked / "net").iterdir())
        assert b"".join(one.read_bytes() for one in parts) == BODY
        assert len(list((finetune.home / "files").iterdir())) == 2

    return killed(finetune, functools.partial(finetune, "--version", first=program), right, kills)


EXPORTS = {
    "keras": ("--format keras", "new/m.keras"),
    "savedmodel": ("--format savedmodel", "new/saved"),
    "slim": ("--format slim", "new/model.ckpt"),
    "all": ("--format keras --format slim --format tflite", "new/all"),
}


def check_export(finetune: Killable, runs: Path, name: str, kills: int) -> int:
    formats, out = EXPORTS[name]
    expected: dict[str, int] = {}

    def right(ended: Ended) -> None:
        # Killed after the last file got its name, it is there whole.
        assert ended.code == 0 or "is already there and is not overwritten" in ended.output, ended.output
        found = {str(one.relative_to(finetune.folder)): one.stat().st_size for one in finetune.folder.rglob("*.*")}
        found = {one: size for one, size in found.items() if "fingerprint" not in one and ".pb" not in one}
        expected.update(expected or found)
        assert found == expected

    line = f"export {runs / 'slim'} {formats} --no-evaluation --out {finetune.folder / out}"
    return killed(finetune, functools.partial(finetune, line), right, kills)


def check_page(finetune: Killable, runs: Path, kills: int) -> int:
    def right(ended: Ended) -> None:
        assert ended.code == 0 or "is already there and is not overwritten" in ended.output, ended.output
        assert (finetune.folder / "page.html").read_text().endswith("</html>\n")

    line = f"report {runs / 'a'} --html {finetune.folder / 'page.html'}"
    return killed(finetune, functools.partial(finetune, line), right, kills)


def check_summary(finetune: Killable, runs: Path, kills: int) -> int:
    """What `finetune batch` writes after every job."""

    def right(ended: Ended) -> None:
        assert ended.code == 0, ended.output
        said = json.loads((finetune.folder / "place" / "summary.json").read_text())
        assert said["counts"] == {"done": 2}
        assert len((finetune.folder / "place" / "summary.csv").read_text().splitlines()) == 3

    def call(**options: object) -> Ended:
        place = finetune.folder / "place"
        for name in ("a", "b"):
            if not (place / name).exists():
                shutil.copytree(runs / name, place / name)
        line = f"batch {runs / 'jobs.toml'} --runs-dir {place} --summary-only"
        return finetune(line, **options)  # type: ignore[arg-type]

    return killed(finetune, call, right, kills)


def check_features(finetune: Killable, runs: Path, backbone: Path, kills: int) -> int:
    """The cache of features, by what a run from it comes to."""
    expected: dict[str, object] = {}
    run = finetune.folder / "run"

    def right(ended: Ended) -> None:
        assert ended.code == 0, ended.output
        result = json.loads((run / "result.json").read_text())
        expected.setdefault("test", result["test"])
        assert result["test"] == expected["test"]
        assert result["cached_features"]["computed"] + result["cached_features"]["read"] > 60

    def call(**options: object) -> Ended:
        shutil.rmtree(run, ignore_errors=True)  # the cache alone is left
        settings = SETTINGS.replace("--epochs 3", "--epochs 1")
        line = f"run --backbone {backbone} {settings} --preset linear-probe --cache-features on --run-dir {run}"
        return finetune(line, **options)  # type: ignore[arg-type]

    return killed(finetune, call, right, kills)


@pytest.mark.slow
def test_killed_now_and_then(finetune: Killable, address: str, runs: Path) -> None:
    assert check_download(finetune, address, 4)
    assert check_archive(finetune, address, 4)
    assert check_export(finetune, runs, "slim", 2)
    assert check_summary(finetune, runs, 3)


@pytest.mark.soak
def test_downloads_killed_at_every_event(finetune: Killable, address: str) -> None:
    print(
        check_download(finetune, address, 100), "downloads killed,", check_archive(finetune, address, 150), "archives"
    )


@pytest.mark.soak
@pytest.mark.parametrize("name", EXPORTS)
def test_exports_killed_at_every_event(finetune: Killable, runs: Path, name: str) -> None:
    print(check_export(finetune, runs, name, 60), name, "exports killed")


@pytest.mark.soak
def test_pages_and_summaries_killed_at_every_event(finetune: Killable, runs: Path) -> None:
    print(check_page(finetune, runs, 12), "pages killed,", check_summary(finetune, runs, 60), "summaries")


@pytest.mark.soak
def test_features_killed_at_every_event(finetune: Killable, runs: Path, backbone: Path) -> None:
    print(check_features(finetune, runs, backbone, 60), "runs killed while or after they wrote features")
