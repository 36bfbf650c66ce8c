"""Self-contained HTML pages: templates with everything escaped, plots and style inside, nothing fetched."""

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from checkpoints.atomic import replacing
from finetune._version import __version__
from finetune.errors import WrongUse


def render(template: str, **values: Any) -> str:
    """The page of `templates/<template>`; text is escaped, only SVG made by `figures` is taken as it is."""
    environment = Environment(
        loader=PackageLoader("finetune.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "number": number}
    written = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    return environment.get_template(template).render(version=__version__, written=written, **values)


def percent(value: float | None) -> str:
    """A fraction as people read it; nothing measured is a dash."""
    return "–" if value is None else f"{value:.1%}"


def number(value: float | None) -> str:
    """Three significant digits; nothing measured is a dash."""
    return "–" if value is None else f"{value:.3g}"


def check_place(path: Path) -> None:
    """Raise WrongUse where a page cannot be written to `path`, before the work it would show is done."""
    if path.exists():
        raise WrongUse(f"{path} is already there and is not overwritten: give another name with --html")
    if not path.absolute().parent.is_dir():
        raise WrongUse(f"--html {path}: there is no directory {path.parent}; make it, or give another name")


def write(path: Path, html: str) -> None:
    """Write a page, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
