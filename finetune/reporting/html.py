"""Self-contained HTML pages: all text is escaped, plots and style are inside, nothing is fetched."""

from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from finetune._version import __version__
from finetune.errors import WrongUse
from finetune.reporting.words import number, others_moved, percent, seconds, setting


def templates(*, autoescape: bool) -> Environment:
    """The folder `templates`, with the filters that format values for people. A missing value is an error."""
    environment = Environment(
        loader=PackageLoader("finetune.reporting"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "number": number, "seconds": seconds, "setting": setting}
    environment.filters |= {"others_moved": others_moved}
    return environment


def render(template: str, **values: Any) -> str:
    """The page of `templates/<template>`. All text is escaped; only `Markup`, the plots of `svg`, is not."""
    written = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    page = templates(autoescape=True).get_template(template)
    return page.render(version=__version__, written=written, **values)


def check_page_path(path: Path) -> None:
    """Raise WrongUse where a page cannot be written to `path`. Call it before the work whose result it shows."""
    if path.exists():
        raise WrongUse(f"{path} is already there and is not overwritten: give another name with --html")
    if not path.absolute().parent.is_dir():
        raise WrongUse(f"--html {path}: there is no directory {path.parent}; make it, or give another name")
