"""The recipes of docs/recipes.md: the page types what the benchmark runs, and test photos are not trained on."""

import shlex

from benchmarks.recipes import RECIPES, split_anew
from tests.support.places import ROOT


def test_the_page_types_what_is_measured():
    page = (ROOT / "docs" / "recipes.md").read_text().replace("\\\n", " ")
    typed = [set(shlex.split(line)) for line in page.splitlines() if line.startswith("finetune run")]
    for words, options in zip(typed, (RECIPES["cifar10"], RECIPES["photos"]), strict=True):
        assert set(options) <= words


def test_a_split_trains_on_no_test_photo(tmp_path):
    for split, numbers in (("train", range(6)), ("val", range(6, 9))):
        for kind in ("daisy", "rose"):
            (tmp_path / "photos" / split / kind).mkdir(parents=True)
            for number in numbers:
                (tmp_path / "photos" / split / kind / f"{number}.jpg").write_text(kind)
    tests = []
    for place in split_anew(tmp_path / "photos", tmp_path / "made", test=2):
        found = {split: {path.resolve() for path in (place / split).rglob("*.jpg")} for split in ("train", "val")}
        assert [len(found[split]) for split in ("train", "val")] == [14, 4]
        assert not found["train"] & found["val"]
        assert all(path.parent.name == path.read_text() for path in place.rglob("*.jpg"))
        tests.append(frozenset(found["val"]))
    assert len(set(tests)) > 1
