"""What README.md and the pages ask a reader to type is typed: every block but those marked `not run`, in its order.

`doc_pages.py` says what a block is, `stand_ins.py` makes what the reader has, `warm_shell.py` is the shell. Options
that make a command small are put behind its own (`SMALL`). `make test` types the pages of QUICK alone, `make test-all`
all of them; that every command of every page can be parsed, `test_commands_in_docs.py` holds.
"""

import contextlib
import dataclasses
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune.batch.jobs import Job, read_jobs
from finetune.config import RunConfig
from finetune.training.start import plan, start
from tests.docs import stand_ins
from tests.docs.doc_pages import PAGES, ROOT, Block, blocks, commands
from tests.support.shared import made_once
from tests.support.warm_shell import Ran, WarmShell

SMALL = {"run": "--epochs 1 --image-size 32 --batch-size 20"} | dict.fromkeys(
    ("export", "diagnose-bn", "recalibrate-bn"), "--images 40"
)
"""Command -> what makes it small; `--examples 60` besides where a run does not say `--few-shot`."""

_TWO_EPOCHS = {"run": "--epochs 2 --image-size 32 --batch-size 20"}
OF_PAGES = {"quickstart.md": {"run": "--examples 200"}, "freezing.md": _TWO_EPOCHS, "settings.md": _TWO_EPOCHS}
"""Where other options make it small: the quickstart's network has to learn enough to be ill, gradual unfreezing takes
an epoch more."""

B = "--backbone resnet_v1_50 --data flowers/"


QUICK = ("cached-features.md",)
"""Pages that need nothing of what the stand-ins bring."""


class Shortening:
    """`finetune` words of a page -> those that are run, and what was added."""

    def __init__(self, page: Path) -> None:
        self.small = {**SMALL, **OF_PAGES.get(page.name, {})}

    def __call__(self, words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        real = [part for word in words for part in (B.split() if word == "B" else [word])]
        added: list[str] = []
        if real[:1] == ["run"] and "--resume" not in real:
            added = self.small["run"].split()
            if "--examples" in real or not {"--few-shot", "--examples"} & {*real, *added}:
                added += ["--examples", "60"]
            else:
                added += ["--validation", "0"]
            if "--swa-start" in real:
                added += ["--swa-start", "2"]  # of two epochs
            if "--microbatch" in real:
                added += ["--microbatch", "10"]  # of 20: two parts
        elif real and real[0] != "run" and real[0] in self.small and "--images" not in real:
            added = self.small[real[0]].split()
            if "--assert-accuracy" in real:
                added += ["--assert-accuracy", "0"]
        return [*real, *added], added


def make_everything(folder: Path) -> None:
    """The stand-ins: `home`, what is `served`, and the `shelf`."""
    stand_ins.write_mirror(folder / "served")
    stand_ins.make_home(folder / "home")
    (folder / "shelf").mkdir()
    with pytest.MonkeyPatch.context() as patch, stand_ins.served(folder / "served") as address:
        patch.setenv("FINETUNE_HOME", str(folder / "home"))
        patch.setenv("FINETUNE_MIRROR", address)
        stand_ins.make_shelf(folder / "shelf")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """The stand-ins, and an environment in which `finetune` sees no other ones."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        stack.enter_context(stand_ins.thin_rows())
        made, _ = made_once(tmp_path_factory, "docs", make_everything)
        home = tmp_path_factory.mktemp("docs") / "home"
        shutil.copytree(made / "home", home)  # pages write into it
        patch.setenv("FINETUNE_HOME", str(home))
        patch.setenv("FINETUNE_MIRROR", stack.enter_context(stand_ins.served(made / "served")))
        yield made / "shelf"


def exit_codes(block: Block) -> dict[tuple[str, ...], tuple[int, str]]:
    """The commands of which the page says how they end: `# exit code 3: WORDS`, WORDS being in what they print."""
    found = {}
    for line in block.typed.replace("\\\n", " ").splitlines():
        said = re.search(r"^\s*finetune (.*?)\s+# exit code (\d+): (\S+)", line)
        if said:
            found[tuple(shlex.split(said[1]))] = (int(said[2]), said[3])
    return found


def wrong(ran: Ran, expected: dict[tuple[str, ...], tuple[int, str]]) -> str | None:
    """Why a command did not do what its page says; None where it did."""
    code, words = expected.get(ran.words, (None, ""))
    line = f"{ran.program} {shlex.join([*ran.words, *ran.added])}"
    if code is None:
        fine = (0, 3, 4) if ran.words[:1] == ("diagnose-bn",) else (0,)
        return None if ran.code in fine else f"{line}: exit code {ran.code}: {(ran.stderr or ran.stdout)[-3000:]}"
    if ran.code != code:
        return f"{line}: exit code {ran.code}, the page says {code}: {(ran.stderr or ran.stdout)[-3000:]}"
    return None if words in ran.stdout + ran.stderr else f"{line}: the page says it prints {words!r}, and it does not"


def run_page(page: Path, shelf: Path, folder: Path) -> list[Ran]:
    """Run a page's blocks."""
    place = folder / "page"
    place.mkdir()
    stand_ins.lay_out(shelf, place)
    shell = WarmShell(folder / "tools", Shortening(page))
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.runs:
            continue
        if block.file is not None:
            (place / block.file).write_text(block.text)
        elif block.language == "python":
            with contextlib.chdir(place):
                exec(compile("\n" * block.line + block.text, str(page), "exec"), names)
        else:
            before = len(shell.ran)
            failed = shell.run(block.typed, place)
            expected = exit_codes(block)
            problems = [problem for ran in shell.ran[before:] if (problem := wrong(ran, expected))]
            # Ours have been judged above, by their words.
            others = [line for line in failed if not re.search(r": (\w+=\S+ )*(finetune|python) ", line)]
            assert not problems + others, f"{block.where}:\n" + "\n".join(problems + others)
    return shell.ran


def typed(page: Path) -> list[list[str]]:
    """The words after `finetune` of the commands that `run_page` must have run."""
    left_out = {block.where for block in blocks(page) if block.not_run}
    return [words for where, words in commands(page) if where.rpartition("+")[0] not in left_out]


def check_page(page: Path, shelf: Path, folder: Path) -> None:
    ran = [list(one.words) for one in run_page(page, shelf, folder) if one.program == "finetune"]
    assert ran == typed(page)


@pytest.fixture
def no_shelf(tmp_path, home):
    """A reader who has nothing."""
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


WITH_BLOCKS = [page for page in PAGES if any(block.runs for block in blocks(page))]


@pytest.mark.parametrize("page", [page for page in WITH_BLOCKS if page.name in QUICK], ids=lambda page: page.name)
def test_a_page_that_needs_nothing_does_what_it_says(page, no_shelf, tmp_path):
    check_page(page, no_shelf, tmp_path)


@pytest.mark.filterwarnings("ignore:epoch")  # what the monitor says of the ill model on docs/python-api.md
@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in WITH_BLOCKS if page.name not in QUICK],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_page_does_what_it_says(page, shelf, tmp_path):
    check_page(page, shelf, tmp_path)


JOB_FILES = sorted((ROOT / "examples").glob("*.toml"))


def smaller(job: Job) -> RunConfig:
    small = {"epochs": 1, "image_size": 32, "batch_size": 20}
    small |= {"few_shot": min(job.config.few_shot, 4)} if job.config.few_shot else {"examples": 60}
    return dataclasses.replace(job.config, **small)


def check_stages(job: Job, stages: Sequence[Mapping[str, Any]]) -> None:
    frozen = any(stage["training"] == 0 for stage in stages)
    assert frozen == bool(job.config.preset == "linear-probe" or job.config.freeze_until)


@pytest.mark.slow
@pytest.mark.parametrize("file", JOB_FILES, ids=lambda file: file.name)
def test_the_jobs_of_an_example_are_planned(file, shelf, monkeypatch):
    """The first and the last job of each file, made small."""
    monkeypatch.chdir(shelf)
    jobs = read_jobs(file)
    for job in (jobs[0], jobs[-1]):
        check_stages(job, plan(smaller(job)).plan.stages())


@pytest.mark.slow
@pytest.mark.parametrize("file", JOB_FILES, ids=lambda file: file.name)
def test_the_jobs_of_an_example_run(file, shelf, tmp_path, monkeypatch):
    """The first and the last job of each file, as its process would run it, made small."""
    monkeypatch.chdir(shelf)
    jobs = read_jobs(file)
    for job in (jobs[0], jobs[-1]):
        run = start(smaller(job), run_dir=tmp_path / job.name)
        assert run.status == "done"
        check_stages(job, run.read("freeze.json")["stages"])


def test_every_example_is_in_its_page():
    text = (ROOT / "examples" / "README.md").read_text()
    typed_there = "".join(block.typed for block in blocks(ROOT / "examples" / "README.md"))
    for file in (ROOT / "examples").iterdir():
        if file.suffix in (".py", ".toml"):
            assert f"[{file.name}]({file.name})" in text
            assert f"examples/{file.name}" in typed_there
        assert file.suffix != ".ipynb" or f"[{file.name}]({file.name})" in text


NOT_RUN = {
    "README.md": ["installs into the reader", "make installs into .venv"],
    "docs/checkpoints.md": ["names a folder of the reader"],
    "docs/choosing-a-decay.md": ["half an hour"],
    "docs/cluster.md": ["Ray", "Slurm", "Slurm"],
    "docs/distributed.md": ["two machines", "Slurm"],
    "docs/evidence/reliability.md": [*3 * ["tests themselves"], "six ResNet-50s", *4 * ["tests themselves"]],
    "docs/evidence/speed.md": ["an hour", "quiet machine"],
    "docs/recipes.md": ["two hours"],
}
"""All that no test types, by a word of the reason the page gives."""


def test_what_is_not_run_is_a_short_list():
    found = {
        str(page.relative_to(ROOT)): [block.not_run for block in blocks(page) if block.not_run is not None]
        for page in PAGES
    }
    found = {name: reasons for name, reasons in found.items() if reasons}
    assert found.keys() == NOT_RUN.keys()
    for name, words in NOT_RUN.items():
        assert len(found[name]) == len(words), found[name]
        for reason, word in zip(found[name], words, strict=True):
            assert word in reason


def test_little_is_left_out():
    every = [command for page in PAGES for command in commands(page)]
    run = [words for page in PAGES for words in typed(page)]
    print(f"{len(run)} of {len(every)} commands are run")
    assert len(run) >= 0.9 * len(every)


def test_a_page_that_is_wrong_would_be_found(no_shelf, tmp_path, monkeypatch):
    from tests.docs import doc_pages

    monkeypatch.setattr(doc_pages, "ROOT", tmp_path)
    for number, (text, said) in enumerate(
        (
            ("```sh\nfinetune backbones show nosuch\n```\n", "unknown backbone"),
            ("```sh\nfinetune backbones list # exit code 3: nothing\n```\n", "the page says 3"),
            ("```sh\nfinetune backbones show nosuch > out.txt || true\n```\n", "unknown backbone"),
            ("```sh\nls nowhere | cat\n```\n", "exit code 2"),
            ("```python\nassert 1 == 2, 'arithmetic'\n```\n", "arithmetic"),
        )
    ):
        page = tmp_path / f"{number}.md"
        page.write_text(text)
        (tmp_path / str(number)).mkdir()
        with pytest.raises(AssertionError, match=said):
            run_page(page, no_shelf, tmp_path / str(number))
