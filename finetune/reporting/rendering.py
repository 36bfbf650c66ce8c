"""Templates filled in: HTML pages and model cards.

Pages are self-contained: plots and style are inside, nothing is fetched. All text is escaped. In a card, names from
outside are escaped too, so that none of them is read as markup.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from finetune._version import PUBLISHED, __version__, requirement
from finetune.errors import WrongUse
from finetune.reporting import words
from finetune.text import printable

LISTED = 50
"""Classes listed; of more, those with the lowest F1."""
FEW = 30
"""With fewer test images of a class its scores mean little: at 90 % the standard error is 5 points."""
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#~|$&!^])")
_FILTERS = ("percent", "number", "seconds", "setting", "brief", "others_moved", "scaling_words")
"""Functions of `words` that templates use."""


def _templates(*, autoescape: bool) -> Environment:
    """The folder `templates`, with the filters that format values for people. A missing value is an error."""
    environment = Environment(
        loader=PackageLoader("finetune.reporting"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {name: getattr(words, name) for name in _FILTERS}
    return environment


def render(template: str, **values: Any) -> str:
    """The page of `templates/<template>`. All text is escaped; only `Markup`, the plots of `svg`, is not."""
    written = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    page = _templates(autoescape=True).get_template(template)
    return page.render(version=__version__, written=written, **values)


def framed(page: str) -> str:
    """A page as part of a notebook, in a frame of its own: its style must not reach the notebook."""
    return f'<iframe srcdoc="{escape(page)}" style="width:100%;height:52em;border:0"></iframe>'


def check_page_path(path: Path) -> None:
    """Raise WrongUse where a page cannot be written to `path`. Call it before the work whose result it shows."""
    if path.exists():
        raise WrongUse(f"{path} is already there and is not overwritten: give another name with --html")
    if not path.absolute().parent.is_dir():
        raise WrongUse(f"--html {path}: there is no directory {path.parent}; make it, or give another name")


def render_card(facts: Mapping[str, Any]) -> str:
    """The card of `facts` (`finetune.training.finish`)."""
    environment = _templates(autoescape=False)
    environment.filters |= {"md": escaped, "code": code, "json": json.dumps}
    classes = facts["classes"]
    tested = [one for one in classes if one["images"]]
    return environment.get_template("MODEL_CARD.md").render(
        **facts,
        version=__version__,
        install=requirement() + (f"=={__version__}" if PUBLISHED else f"    # finetune {__version__}"),
        listed=classes if len(classes) <= LISTED else sorted(tested, key=lambda one: one["f1"] or 0.0)[:20],
        few=[one for one in classes if one["images"] < FEW],
        few_images=FEW,
    )


def escaped(value: Any) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no end of a table's cell."""
    return _MARKS.sub(r"\\\1", printable(str(value)))


def code(value: Any) -> str:
    """Text as inline code, whatever ticks are in it (CommonMark 6.1). Bars are escaped: they end a table's cell."""
    shown = printable(str(value)).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    space = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{space}{shown}{space}{fence}"
