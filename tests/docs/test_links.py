"""Every link of a page leads somewhere, and every file of this repository that a page names is there."""

import re

import pytest

from tests.docs.doc_pages import PAGES, ROOT

MORE = [
    ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "benchmarks/clinic/README.md")
]
"""Pages without commands of `finetune` to run."""
SOURCES = ("finetune", "checkpoints", "tests", "benchmarks", "examples", "tools")


def broken(page, text):
    """Links and names of files in `text` that lead nowhere."""
    links = [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if not re.match(r"\w+:", target)]
    missing = [target for target in links if not (page.parent / target).exists()]
    # In backquotes or plain, but not a pattern (`catalog_*.py`) and not a template (`networks/<family>.py`).
    named = re.findall(
        r"(?<![\w/.<*-])((?:finetune|checkpoints|tests|benchmarks|tools|docs)/[\w/.-]+\.(?:py|md|svg|png|toml|jsonl|gz))\b",
        text,
    )
    named += [name for name in re.findall(r"`([\w/]+\.py)`", text) if name not in named]
    return missing + [name for name in named if not _is_there(name)]


def _is_there(name):
    """Whether `name` is a path from the top, or the end of a module's path."""
    ends = (f"/{path}".endswith(f"/{name}") for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))
    return (ROOT / name).exists() or any(ends)


@pytest.mark.parametrize("page", [*PAGES, *MORE], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_file_is_there(page):
    assert not broken(page, page.read_text())


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index)}
    pages = {page for page in PAGES if page.parent != ROOT and page != ROOT / "docs" / "README.md"}
    assert pages <= linked


def test_a_broken_link_would_be_found():
    page = ROOT / "docs" / "quickstart.md"
    text = "[a](nosuch.md) [b](data.md#photos) [c](https://x.org) `finetune/nosuch.py`, `tests/<name>.py`, `policy.py`"
    assert broken(page, f"{text}, `no_such.py`") == ["nosuch.md", "finetune/nosuch.py", "no_such.py"]
