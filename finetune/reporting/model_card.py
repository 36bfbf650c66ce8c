"""A model card as Markdown, in which every name is only a name."""

import json
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from finetune._version import __version__
from finetune.reporting.html import number, percent
from finetune.reporting.words import seconds, setting
from finetune.text import printable

LISTED = 50
"""Classes listed; of more, those with the lowest F1."""
FEW = 30
"""Test images of a class below which its scores say little: at 90 % the standard error is 5 points."""
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#~|$&!^])")


def text(facts: Mapping[str, Any]) -> str:
    """The card of `facts` (`finetune.training.card_facts`)."""
    environment = Environment(
        loader=PackageLoader("finetune.reporting"), autoescape=False, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "md": escaped, "code": code, "percent": percent, "number": number, "setting": setting, "seconds": seconds,
        "json": json.dumps,
    }  # fmt: skip
    classes = facts["classes"]
    tested = [one for one in classes if one["images"]]
    return environment.get_template("MODEL_CARD.md").render(
        **facts,
        version=__version__,
        listed=classes if len(classes) <= LISTED else sorted(tested, key=lambda one: one["f1"] or 0.0)[:20],
        few=[one for one in classes if one["images"] < FEW],
        few_images=FEW,
    )


def escaped(value: Any) -> str:
    """Text that Markdown takes for text: no markup, no HTML, no end of a table's cell."""
    return _MARKS.sub(r"\\\1", printable(str(value)))


def code(value: Any) -> str:
    """Text as inline code, whatever ticks are in it (CommonMark 6.1); in a table a bar would still end the cell."""
    shown = printable(str(value)).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    space = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{space}{shown}{space}{fence}"
