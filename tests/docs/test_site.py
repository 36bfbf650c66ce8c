"""The site of `make docs`: complete, strict, and read without a network."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import click
import pytest
import yaml

from finetune.cli import main
from tests.docs.doc_pages import PAGES
from tests.support.places import ROOT
from tools import diagram, site_pages
from tools.cli_page import cli_page, without_help


def in_navigation():
    class Loader(yaml.SafeLoader):
        """The names of Python functions in the file stay unread."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        return [page for one in (entry.values() if isinstance(entry, dict) else entry) for page in pages(one)]

    return pages(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"])


def test_the_navigation_names_every_page_once():
    pages = [site_pages.site_place(path) for path, text in site_pages.linked().items() if text is not None]
    assert sorted(in_navigation()) == sorted([*pages, "reference/cli.md", "reference/python.md"])
    assert {site_pages.site_place(str(page.relative_to(ROOT))) for page in PAGES} <= set(pages)


def test_links_are_those_of_the_site():
    text = "[a](../examples/README.md#scripts) ![b](images/decay_powers.svg) [c](https://x.org) [d](nosuch.md)"
    there = "[a](examples/README.md#scripts) ![b](images/decay_powers.svg) [c](https://x.org) [d](nosuch.md)"
    assert site_pages.relinked(text, "docs/README.md") == there
    assert site_pages.relinked("[a](docs/README.md) [b](examples/README.md)", "README.md") == (
        "[a](guides.md) [b](examples/README.md)"
    )


def test_every_command_and_option_is_on_its_page():
    assert not without_help(main)
    page = cli_page(main)
    for words in ("## finetune run", "### finetune backbones list", "<code>--bn-decay</code>", "[[job]]", "Exit codes"):
        assert words in page
    silent = click.Group("finetune", commands=[click.Command("x", params=[click.Option(["--y"])])], help="A tool.")
    assert without_help(silent) == ["finetune x", "finetune x --y"]


def test_the_picture_of_the_packages_has_every_box_and_arrow():
    text = (ROOT / "docs" / "architecture.md").read_text()
    graph = site_pages.MERMAID.search(text)[1]
    drawn = diagram.svg(graph)
    assert {*re.findall(r"<text[^>]*>(\w+)</text>", drawn)} == {*re.findall(r"\w+", graph)} - {"graph", "TD"}
    assert drawn.count('class="arrow"') == graph.count("-->")
    places = re.findall(r'<rect x="(\S+)" y="(\S+)"', drawn)
    assert len(set(places)) == len(places)


class _Page(HTMLParser):
    """What a built page loads, and the text of its paragraphs."""

    def __init__(self):
        super().__init__()
        self.loaded, self.paragraphs, self._inside = [], [], False

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        names = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
        if tag in names and given.get(names[tag]) and given.get("rel") not in ("prev", "next", "canonical"):
            self.loaded.append(given[names[tag]])
        if tag == "p":
            self.paragraphs.append("")
        self._inside = tag == "p" or (self._inside and tag in ("a", "code", "strong", "em"))

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "p"

    def handle_data(self, data):
        if self._inside:
            self.paragraphs[-1] += data


def _built(folder, *, config="mkdocs.yml"):
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder, "--config-file", config)
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    done = _built(tmp_path / "site")
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path for path in (tmp_path / "site").rglob("*.html")}
    assert len(pages) >= 35
    for name, path in pages.items():
        page = _Page()
        page.feed(path.read_text())
        outside = [address for address in page.loaded if re.match(r"(\w+:)?//", address)]
        assert not outside, f"{name} loads {outside}"
        missing = [one for one in page.loaded if name != "404.html" and not (path.parent / one.split("?")[0]).exists()]
        assert not missing, f"{name} loads {missing}"
        # Markdown that this generator does not take as the forge does.
        plain = [text for text in page.paragraphs if re.search(r"(?m)^(- |\d+\. |\||```)", text)]
        assert not plain, f"{name}: {plain}"
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//", style.read_text()), style
    names = pages["reference/python.html"].read_text()
    assert all(f'id="{name}"' in names for name in (*site_pages.PROMISED, "finetune.diagnose_bn", "finetune.Run.model"))
    assert "statistics-lag" in (tmp_path / "site" / "search" / "search_index.js").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [("[a](nosuch.md)", "nosuch.md"), ("[a](#nosuch)", "nosuch"), ("[a](docs/data.md#nosuch)", "nosuch")],
)
def test_a_broken_link_fails_the_build(text, said, tmp_path, monkeypatch, caplog):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), nav=None, plugins=[], theme="mkdocs")
    hook = config.hooks["tools/site_pages.py"]
    monkeypatch.setattr(hook, "linked", lambda: {"README.md": f"# a\n\n{text}\n", "docs/data.md": "# b\n"})
    monkeypatch.setattr(hook, "python_reference", lambda: "# c\n")
    with pytest.raises(Abort):
        build(config)
    assert said in caplog.text


def test_a_public_name_without_docstring_is_reported(tmp_path):
    import griffe

    (tmp_path / "silent.py").write_text(
        'class Known:\n    """Said."""\n\n    def quiet(self): ...\n\n    @property\n    def shy(self): ...\n\n'
        '    def loud(self):\n        """Said."""\n\n    def _own(self): ...\n'
    )
    module = griffe.load("silent", search_paths=[str(tmp_path)])
    assert site_pages.without_docstring(module, "Known") == ["silent.Known.quiet", "silent.Known.shy"]
