"""A disk that is full, read-only or refuses a file, at any moment: one error, or a warning; nothing is lost."""

import errno
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.soak.killed_process import CHANGES, WRITES, Ended, Killable, namespace
from tests.soak.run_content import SETTINGS, content, goes_on, leftovers
from tests.soak.small_server import BODY

OPTIONS = "--ema 0.9 --diagnose-every 2 --tracker tensorboard"
SAID = {
    errno.ENOSPC: "the disk is full while writing {}: free some space, then ",
    errno.EROFS: "no permission for {}: choose another place, or change its owner or mode",
    errno.EACCES: "no permission for {}: choose another place, or change its owner or mode",
    errno.EIO: "Input/output error: {}",
}
COMMANDS = {
    "report": "report {disk}/done --html {out}/page.html",
    "diagnosis": "diagnose-bn {disk}/done --images 50 --html {out}/page.html",
    "keras": "export {disk}/done --format keras --no-evaluation --out {out}/new/m.keras",
    "savedmodel": "export {disk}/done --format savedmodel --no-evaluation --out {out}/new/saved",
    "tflite": "export {disk}/done --format tflite --no-evaluation --out {out}/new/m.tflite",
    "onnx": "export {disk}/done --format onnx --no-evaluation --out {out}/new/m.onnx",
    "slim": "export {disk}/slim --format slim --no-evaluation --out {out}/new/model.ckpt",
    "all": "export {disk}/slim --format keras --format slim --format savedmodel --no-evaluation --out {out}/new/all",
    "features": "features {disk}/done --layer conv2 --out {out}/f.npz",
    "recalibration": "recalibrate-bn {disk}/done --images 50 --out {out}/re.keras",
    "conversion": "checkpoint convert {disk}/slim/model.keras {out}/new/c.ckpt",
    "conversion to Keras": "checkpoint convert {disk}/slim/model.keras {out}/new/c.weights.h5",
}


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    own = namespace()
    if own is None:
        pytest.skip("nothing can be mounted here: neither as root nor in a user namespace")
    process = Killable(tmp_path_factory.mktemp("disk"), own_disk=own)
    yield process
    process.close()


@pytest.fixture(scope="module")
def line(finetune: Killable, backbone: Path) -> str:
    """Of a run; `done`, which commands use, and `whole` are one as it should be, `slim` takes every format, `out` is
    an empty folder."""
    line = f"run --backbone {backbone} {SETTINGS} {OPTIONS} --run-dir "
    slim = f"run --backbone resnet_v1_demo {SETTINGS} --image-size 16 --epochs 1 --run-dir "
    for name, one in (("done", line), ("slim", slim)):
        ended = finetune(f"{one}{finetune.folder / name}")
        assert ended.code == 0, ended.output
    shutil.copytree(finetune.seen(finetune.folder / "done"), finetune.seen(finetune.folder / "whole"))
    finetune.seen(finetune.folder / "out").mkdir()
    return line


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file with its content, every folder."""
    return {str(one.relative_to(folder)): one.read_bytes() if one.is_file() else None for one in folder.rglob("*")}


def used(finetune: Killable) -> int:
    """KiB of the disk, as tmpfs counts them."""
    found = tree(finetune.seen(finetune.folder)).values()
    return sum(-(-len(one) // 4096) * 4 for one in found if one is not None)


def error_of(ended: Ended) -> str:
    """What it said, once it is known to be one error."""
    found = re.findall(r"^Error: .*$", ended.output, re.MULTILINE)
    assert (ended.code, len(found)) == (1, 1), ended.output
    for never in ("Traceback", "defect of finetune", "out of memory", ".tmp."):
        assert never not in found[0], found
    return str(found[0])


def check_goes_on(finetune: Killable, line: str, run: Path, *, what: Any) -> None:
    """The same command, or the one that the error names, ends in what the undisturbed run has."""
    there = finetune.seen(run)
    assert leftovers(there) == [], what
    again = finetune(goes_on(line + str(run), run) if not (there / "config.json").exists() else f"run --resume {run}")
    assert again.code == 0, (what, again.output)
    found, expected = content(there), content(finetune.seen(finetune.folder / "whole"))
    for name, value in expected.items():
        assert found[name] == value, (name, what)
    assert leftovers(there) == [], what


def check_full_disk(finetune: Killable, line: str, shares: list[float]) -> list[str]:
    """A run on a disk that has this share of the room the run takes."""
    run, found = finetune.folder / "run", []
    before = used(finetune)
    room = used_by(tree(finetune.seen(finetune.folder / "done")))
    for share in shares:
        finetune.disk(f"size={before + 4 + int(share * room)}k")
        ended = finetune(line + str(run))
        finetune.disk("size=64m")
        said = error_of(ended)
        assert f"the disk is full while writing {run}/" in said
        begun = (finetune.seen(run) / "config.json").exists()
        assert said.endswith(f"continue with: finetune run --resume {run}" if begun else "then repeat the command")
        assert begun or not finetune.seen(run).exists()
        found.append(said.split(f"{run}/")[1].partition(":")[0])
        check_goes_on(finetune, line, run, what=(share, said))
        shutil.rmtree(finetune.seen(run))
    return found


def used_by(files: dict[str, bytes | None]) -> int:
    return sum(-(-len(one) // 4096) * 4 for one in files.values() if one is not None)


@pytest.mark.slow
def test_a_run_on_a_full_disk(finetune: Killable, line: str) -> None:
    assert check_full_disk(finetune, line, [0.5])


@pytest.mark.soak
def test_a_run_on_a_disk_that_is_full_at_any_moment(finetune: Killable, line: str) -> None:
    names = check_full_disk(finetune, line, [number / 24 for number in range(24)])
    print({name: names.count(name) for name in sorted(set(names))})
    assert {"checkpoints/state.npz", "model-last-step.keras"} <= set(names)


def check_full_out(finetune: Killable, name: str, shares: list[float]) -> int:
    """A command that writes something, on a disk with room for a share of it. How often that was not enough."""
    out = finetune.folder / "out"
    words = COMMANDS[name].format(disk=finetune.folder, out=out)
    written = finetune.seen(out)

    def emptied() -> None:
        shutil.rmtree(written)
        written.mkdir()

    ended = finetune(words)
    assert ended.code == 0, ended.output
    assert leftovers(written) == []
    names, room = set(tree(written)), used_by(tree(written))
    emptied()
    before, failed = tree(finetune.seen(finetune.folder)), 0
    for share in shares:
        finetune.disk(f"size={used(finetune) + 4 + int(share * room)}k")
        ended = finetune(words)
        finetune.disk("size=64m")
        if ended.code:
            failed += 1
            said = error_of(ended)
            assert f"the disk is full while writing {finetune.folder}" in said, said
            assert tree(finetune.seen(finetune.folder)) == before, share
            ended = finetune(words)
        assert ended.code == 0, ended.output
        assert set(tree(written)) == names
        emptied()
    return failed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["savedmodel", pytest.param("slim", marks=pytest.mark.slow), "features"])
def test_no_room_for_what_is_written(finetune: Killable, line: str, name: str) -> None:
    assert check_full_out(finetune, name, [0.3])


@pytest.mark.soak
@pytest.mark.parametrize("name", COMMANDS)
def test_no_room_for_what_is_written_at_any_moment(finetune: Killable, line: str, name: str) -> None:
    assert check_full_out(finetune, name, [0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0])


def check_refused(finetune: Killable, line: str, moments: list[tuple[int, int]]) -> list[str]:
    """From the n-th event on the system refuses what changes the disk with that errno; how it ended."""
    run, found = finetune.folder / "run", []
    for number, refusal in moments:
        events = WRITES if refusal == errno.ENOSPC else CHANGES
        ended = finetune(line + str(run), fail=(number, refusal, events))
        if ended.code:
            said = error_of(ended)
            # Behind a tracker's error comes the run's own.
            assert re.search(SAID[refusal].format(f"{re.escape(str(run))}\\S*"), said) or "--tracker" in said, said
        else:
            assert not ended.events or "warning" in ended.output.lower(), (number, ended.output, ended.events)
        found.append(ended.events[0] if ended.events else "none")
        if refusal != errno.ENOSPC:  # nothing could be removed: the next call does it
            for one in leftovers(finetune.seen(run)) if finetune.seen(run).exists() else []:
                Path(one).unlink()
        check_goes_on(finetune, line, run, what=(number, refusal, ended.output, ended.events[:2]))
        shutil.rmtree(finetune.seen(run))
    return found


@pytest.mark.slow
def test_files_that_the_system_refuses(finetune: Killable, line: str) -> None:
    check_refused(finetune, line, [(20, errno.EROFS)])


@pytest.mark.soak
def test_every_single_file_refused(finetune: Killable, line: str) -> None:
    events = finetune(line + str(finetune.folder / "run")).events
    shutil.rmtree(finetune.seen(finetune.folder / "run"))
    rng = random.Random(5)
    kinds = {event: number for number, event in enumerate(events, 1)}  # the last of each
    kinds |= {f"first {event}": number for number, event in reversed(list(enumerate(events, 1)))}
    moments = [(number, rng.choice(list(SAID))) for number in sorted(set(kinds.values()))]
    found = check_refused(finetune, line, moments)
    print(len(found), "moments")
    assert len(found) > 40


def limited(size: int) -> str:
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))"


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        pytest.param("slim", [10_000, 100_000], marks=pytest.mark.slow),
        pytest.param("all", [1_000, 10_000, 100_000, 300_000], marks=pytest.mark.soak),
        *(pytest.param(name, [0, 500, 5_000], marks=pytest.mark.soak) for name in COMMANDS if name != "all"),
    ],
)
def test_a_limit_to_the_size_of_files(finetune: Killable, line: str, name: str, sizes: list[int]) -> None:
    out = finetune.folder / "out"
    before = tree(finetune.seen(finetune.folder))
    for size in sizes:
        ended = finetune(COMMANDS[name].format(disk=finetune.folder, out=out), first=limited(size))
        # Its own output is a file as well, in these tests alone.
        assert (ended.code, "Traceback" in ended.output) == (1, False), ended.output
        if size > 1_000:
            assert "would be larger than is allowed: raise the limit ('ulimit -f'), then repeat" in error_of(ended)
        assert tree(finetune.seen(finetune.folder)) == before


ALWAYS_WORTH_IT = """
from finetune.training.feature_cache import feature_store, preparing
preparing._LEAST = 0
feature_store._SPARE = 0
"""


def check_cache(finetune: Killable, backbone: Path, place: Path, ways: list[str]) -> None:
    """A run beside a cache that cannot be written goes on without; where it is told to cache, it says why not."""
    settings = SETTINGS.replace("--quiet", "")
    start = f"run --backbone {backbone} {settings} --preset linear-probe --cache-budget 1GiB --run-dir "
    shutil.rmtree(finetune.seen(finetune.home), ignore_errors=True)
    whole = finetune(start + str(place / "whole"), first=ALWAYS_WORTH_IT)
    assert (whole.code, "images computed" in whole.output) == (0, True), whole.output
    for way in ways:
        if way.endswith("k"):
            shutil.rmtree(finetune.seen(finetune.home), ignore_errors=True)
            way = f"size={used(finetune) + int(way[:-1])}k"
        finetune.disk(way)
        run = place / f"run-{way.replace('=', '-')}"
        ended = finetune(start + str(run), first=ALWAYS_WORTH_IT)
        refused = finetune(start + f"{run}-on --cache-features on", first=ALWAYS_WORTH_IT)
        finetune.disk("rw,size=64m")
        assert (ended.code, "features are not cached: " in ended.output) == (0, True), ended.output
        assert content(run)["metrics.jsonl"] == content(place / "whole")["metrics.jsonl"], way
        words = error_of(refused) if refused.code == 1 else refused.output
        assert re.search(r"no permission for|the disk is full while writing|they would take .* free$", words, re.M), (
            words
        )
        assert str(finetune.home) in words
        assert not Path(f"{run}-on").exists()
        again = finetune(start + f"{run}-again --cache-features on", first=ALWAYS_WORTH_IT)
        assert again.code == 0, again.output
        assert content(Path(f"{run}-again"))["metrics.jsonl"] == content(place / "whole")["metrics.jsonl"]


@pytest.mark.slow
def test_a_cache_that_cannot_be_written(finetune: Killable, backbone: Path, tmp_path: Path) -> None:
    check_cache(finetune, backbone, tmp_path, ["ro"])


@pytest.mark.soak
def test_a_cache_without_room(finetune: Killable, backbone: Path, tmp_path: Path) -> None:
    check_cache(finetune, backbone, tmp_path, ["4k", "8k", "12k", "16k", "24k", "32k", "ro"])


@pytest.mark.slow
def test_downloads_without_room_or_rights(finetune: Killable, line: str, address: str) -> None:
    check_downloads(finetune, address, ["ro", "500k"])


@pytest.mark.soak
def test_downloads_without_room_at_any_moment(finetune: Killable, line: str, address: str) -> None:
    check_downloads(finetune, address, ["4k", "12k", "2000k", "2900k"])


def check_downloads(finetune: Killable, address: str, ways: list[str]) -> None:
    """A download where nothing may be written, or with so much room: one error, and the next call ends right."""
    files = finetune.seen(finetune.home / "files")
    for way in ways:
        shutil.rmtree(files, ignore_errors=True)
        finetune.disk(way if way == "ro" else f"size={used(finetune) + int(way[:-1])}k")
        ended = finetune(fetch=f"{address}/weights.bin")
        finetune.disk("rw,size=64m")
        assert ended.code == 1
        said = ended.output.strip().splitlines()[-1]
        assert said.startswith(f"checkpoints.errors.CheckpointError: cannot keep {finetune.home}"), said
        assert said.endswith("or set FINETUNE_HOME to a directory that can be written."), said
        kept = {one.name for one in files.iterdir()} if files.exists() else set()
        assert kept <= {"weights.bin.part", "weights.bin.part.json"}, kept
        again = finetune(fetch=f"{address}/weights.bin")
        assert again.code == 0, again.output
        assert (files / "weights.bin").read_bytes() == BODY
        assert sorted(one.name for one in files.iterdir()) == ["weights.bin", "weights.bin.json"]
