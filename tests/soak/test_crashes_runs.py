"""A run that is killed at any moment, as often as one likes, and resumed, ends as the unbroken run."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.soak.killed_process import Ended, Killable
from tests.soak.run_content import SETTINGS, content, goes_on, leftovers

WAYS = {
    "averaged": "--dropout 0.2 --ema 0.9 --diagnose-every 2",
    "features cached": "--preset linear-probe --cache-features on",
    "layers unfrozen one after another": "--unfreeze-epochs 2 --patience 3 --validation 0.2",
    "trackers": "--tracker tensorboard --hidden 4",
}


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    process = Killable(tmp_path_factory.mktemp("killed"))
    yield process
    process.close()


def killed_until(finetune: Killable, start: str, run: Path, kills: int, *, seed: int, anew: Any) -> Iterator[Ended]:
    """Kill `kills` times, and let the run end whenever it survives: yields every end that is no kill."""
    rng = random.Random(seed)
    done = 0
    while True:
        # Of a run that was resumed, fewer moments are left; drawn beyond the last one, it ends.
        moment = (rng.randint(1, 90), rng.choice((0, 0, 0.2, 1, 5, 40))) if done < kills else None
        ended = finetune(goes_on(start, run), kill=moment)
        if ended.killed:
            done += 1
            MOMENTS.append(ended.events[0] if ended.events else "?")
            continue
        yield ended
        if done >= kills:
            return
        anew()


MOMENTS: list[str] = []


def check(finetune: Killable, backbone: Path, way: str, *, kills: int, seed: int) -> None:
    whole, run = finetune.folder / "whole", finetune.folder / "run"
    for path in (whole, run, finetune.home):
        shutil.rmtree(path, ignore_errors=True)
    line = f"run --backbone {backbone} {SETTINGS} {WAYS[way]} --run-dir "
    ended = finetune(line + str(whole))
    assert ended.code == 0, ended.output
    expected = content(whole)
    assert leftovers(finetune.folder) == []

    def anew() -> None:
        for path in (run, finetune.home):
            shutil.rmtree(path, ignore_errors=True)

    anew()
    compared = 0
    for ended in killed_until(finetune, line + str(run), run, kills, seed=seed, anew=anew):
        assert ended.code == 0, (ended.output, MOMENTS[-5:])
        found = content(run)
        if way == "features cached":  # how many of them were computed, and how many were there
            for one in (expected, found):
                one["result.json"].pop("cached_features", None)
        for name, value in expected.items():
            assert found[name] == value, (name, MOMENTS[-5:])
        assert leftovers(finetune.folder) == []
        again = finetune(f"run --resume {run}")
        assert (again.code, "is finished: nothing to do" in again.output) == (0, True)
        compared += 1
    assert compared


@pytest.mark.slow
def test_two_kills(finetune: Killable, backbone: Path) -> None:
    check(finetune, backbone, "averaged", kills=2, seed=3)


@pytest.mark.soak
@pytest.mark.parametrize("way", WAYS)
def test_fifty_kills(finetune: Killable, backbone: Path, way: str) -> None:
    MOMENTS.clear()
    check(finetune, backbone, way, kills=50, seed=20_261)
    names = [moment.rpartition("/")[2] for moment in MOMENTS]
    print(way, {name: names.count(name) for name in sorted(set(names))})
    assert {".tmp.state.npz", ".tmp.metrics.jsonl"} <= set(names)


@pytest.mark.soak
@pytest.mark.parametrize("way", ["averaged", "features cached"])
def test_killed_before_during_and_after_every_single_file(finetune: Killable, backbone: Path, way: str) -> None:
    """Not at random: once at each kind of event of each file, from the first directory to the last remove."""
    whole, run = finetune.folder / "whole", finetune.folder / "run"
    for path in (whole, run, finetune.home):
        shutil.rmtree(path, ignore_errors=True)
    line = f"run --backbone {backbone} {SETTINGS} {WAYS[way]} --run-dir "
    events = finetune(line + str(run)).events
    shutil.copytree(run, whole)
    expected = content(whole)
    moments = {event.replace(str(run), ""): number for number, event in enumerate(events, 1)}
    assert len(moments) > 30
    for name in ("config.json", "freeze.json", "state.npz", "metrics.jsonl", "model.keras", "result.json"):
        assert any(name in moment for moment in moments)
    for number in sorted(moments.values()):
        for delay in (0, 0.3):
            for path in (run, finetune.home):
                shutil.rmtree(path, ignore_errors=True)
            finetune(line + str(run), kill=(number, delay))
            ended = finetune(goes_on(line + str(run), run))
            assert ended.code == 0, (events[number - 1], ended.output)
            found = content(run)
            for name in ("files", "metrics.jsonl", "metrics.csv", "predictions", "model.keras"):
                assert found[name] == expected[name], (name, events[number - 1])
            assert leftovers(finetune.folder) == [], events[number - 1]
