"""`finetune cache`, and the options of `finetune run` that go with it."""

import json
import re

import pytest

from tests.support.commands import typed

RUN = "run TINY --freeze '*' --quiet"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_HOME", str(home))
        for name, weight_decay in (("first", 0.05), ("second", 0.0)):
            result = typed(f"{RUN} --weight-decay {weight_decay} --cache-features on --run-dir {home}/{name}")
            assert result.exit_code == 0, result.output
        yield home


def result_of(run):
    return json.loads((run / "result.json").read_text())


def test_a_second_run_reads_what_the_first_computed(home):
    first, second = (result_of(home / name)["cached_features"] for name in ("first", "second"))
    assert (first["read"], second["computed"]) == (0, 0)
    assert first["key"] == second["key"]
    assert json.loads((home / "first/config.json").read_text())["cache_features"] == "on"


def test_list_says_what_there_is(home):
    listed = json.loads(typed("cache list --json").stdout)
    assert listed["place"] == str(home / "features")
    assert {one["statistics"] for one in listed["entries"]} == {"moving", "batch"}
    assert all("tiny.keras" in one["backbone"] and one["bytes"] > 0 for one in listed["entries"])
    shown = typed("cache list").stdout
    assert re.search(r"^2 entries, .* MiB of .*iB, in ", shown, re.MULTILINE), shown
    assert listed["entries"][0]["key"][:12] in shown


@pytest.mark.slow
def test_off_gives_the_same_figures(home):
    result = typed(f"{RUN} --weight-decay 0.05 --cache-features off --run-dir {home}/off")
    assert result.exit_code == 0, result.output
    with_cache, without = result_of(home / "first"), result_of(home / "off")
    assert without["cached_features"] is None
    for mode in with_cache["test"]:
        assert with_cache["test"][mode]["correct"] == without["test"][mode]["correct"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--cache-features yes", "--cache-features 'yes' is not valid: expected one of auto, on, off"),
        ("--cache-budget lots", "--cache-budget 'lots' is not valid: expected a size, such as 10GiB or 500MB"),
        ("--cache-precision float8", "--cache-precision 'float8' is not valid: did you mean float32?"),
        ("--cache-features on --augment crop-flip", "--cache-features on: training images are changed at random"),
    ],
)
def test_what_will_not_do_leaves_no_run(home, tmp_path, options, words):
    result = typed(f"{RUN} {options} --run-dir {tmp_path}/run")
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_clear_some_and_all(home):
    keys = [one["key"] for one in json.loads(typed("cache list --json").stdout)["entries"]]
    result = typed("cache clear nothing")
    assert result.exit_code == 2
    assert "no entry 'nothing' in the cache" in result.stderr
    assert json.loads(typed(f"cache clear {keys[0][:10]} --json").stdout)["removed"] == [keys[0]]
    assert typed("cache clear").stdout.startswith(f"removed {len(keys) - 1} entries, ")
    assert typed("cache list").stdout.startswith("0 entries, 0.0 MiB of ")
