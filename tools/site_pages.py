"""The pages of the documentation site, for MkDocs (`hooks` in mkdocs.yml): `make docs` builds it.

Pages stay where they are read on the forge. The site has README.md, every page of docs/, and every file that one of
them links to, wherever it lies; their links are rewritten. Two pages are made from the code: the command line and the
Python names. The build fails if an option has no help or a public name no docstring.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import click
import griffe
import nbconvert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import finetune
from finetune.cli import main
from tools.cli_page import cli_page, without_help
from tools.diagram import svg

ROOT = Path(__file__).resolve().parents[1]

PROMISED = (
    "finetune.backbone.stock.StockOptions",
    "finetune.diagnosis.monitor.BatchNormWarning",
    "finetune.evaluation.evaluator.Evaluation",
    "finetune.inference.predict.Classifications",
    "finetune.inference.grad_cam.HeatMap",
    "finetune.diagnosis.verdict.judge",
    "finetune.diagnosis.verdict.Verdict",
    "finetune.diagnosis.evidence.BNEvidence",
    "finetune.batchnorm.statistics.KerasSubject",
    "finetune.batchnorm.surgery.adopt",
    "finetune.batchnorm.surgery.to_stock",
    "finetune.inference.export.write.export",
)
"""Names below `import finetune` that pages tell a reader to use."""

MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()[^)#\s:]+(?=[)#\s])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All files of the site: those of the repository, and the two references."""
    found = Files([file for file in files if file.src_dir != config.docs_dir])  # the theme's own
    for path, text in linked().items():
        place = site_place(path)
        if text is None:
            found.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
        else:
            found.append(File.generated(config, place, content=relinked(text, path)))
    for file in sorted((ROOT / "tools" / "site_files").iterdir()):
        found.append(File.generated(config, f"assets/{file.name}", abs_src_path=str(file)))
    found.append(File.generated(config, "reference/cli.md", content=cli_reference(main)))
    found.append(File.generated(config, "reference/python.md", content=python_reference()))
    return found


def linked() -> dict[str, str | None]:
    """Path from ROOT -> Markdown (None of what is no page), of all that README.md and docs/ lead to."""
    waiting = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
    found: dict[str, str | None] = {}
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = text = _markdown(ROOT / path)
            waiting += targets(text, path) if text is not None else []
    return found


def _markdown(file: Path) -> str | None:
    if file.suffix == ".ipynb":
        text, _ = nbconvert.MarkdownExporter().from_filename(str(file))
        return str(text)
    return file.read_text(encoding="utf-8") if file.suffix == ".md" else None


def targets(text: str, path: str) -> list[str]:
    """The files of the repository that the page at `path` links to."""
    named = (posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for link in _LINK.findall(text))
    return [target for target in named if (ROOT / target).is_file()]


def site_place(path: str) -> str:
    """Where a file of the repository is in the site. The first page is README.md; docs/ is the site's top."""
    if path in ("README.md", "docs/README.md"):
        return "index.md" if path == "README.md" else "guides.md"
    return path.removeprefix("docs/").replace(".ipynb", ".md")


def relinked(text: str, path: str) -> str:
    """A page with its links as they are in the site. A link that leads nowhere stays, and MkDocs reports it."""

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[0]))
        if not (ROOT / target).is_file():
            return link[0]
        return posixpath.relpath(site_place(target), posixpath.dirname(site_place(path)) or ".")

    return _LINK.sub(moved, MERMAID.sub(lambda block: svg(block[1]), text))


def cli_reference(root: click.Command) -> str:
    """The page of the command line. PluginError lists what has no help."""
    if silent := without_help(root):
        raise PluginError(f"no help: {', '.join(silent)}")
    return cli_page(root)


def python_reference() -> str:
    """The page of the Python names. PluginError lists those without a docstring."""
    package = griffe.load("finetune", search_paths=[str(ROOT)])
    public = [f"finetune.{name}" for name in finetune.__all__]
    silent = [
        name for path in (*public, *PROMISED) for name in without_docstring(package, path.removeprefix("finetune."))
    ]
    if silent:
        raise PluginError(f"no docstring: {', '.join(silent)}")
    parts = ["# Python\n\nMade from the docstrings. [From Python](../python-api.md) has examples.\n"]
    for title, names in (("`import finetune`", public), ("Below it", PROMISED)):
        parts += [f"## {title}\n", *(f"::: {name}\n" for name in names)]
    return "\n".join(parts)


def without_docstring(package: Any, path: str) -> list[str]:
    """Of a function, or of a class and its public methods and properties, those that say nothing."""
    found = package[path]
    members = found.members.values() if found.is_class else []
    inner = [one for one in members if (one.is_function or "property" in one.labels) and not one.name.startswith("_")]
    return [one.path for one in (found, *inner) if not one.has_docstring]
