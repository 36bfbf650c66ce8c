"""A model card in Markdown. Names from outside are escaped, so that none of them is taken for markup."""

import json
import re
from collections.abc import Mapping
from typing import Any

from finetune._version import __version__
from finetune.reporting.html import templates
from finetune.text import printable

LISTED = 50
"""Classes listed; of more, those with the lowest F1."""
FEW = 30
"""With fewer test images of a class its scores mean little: at 90 % the standard error is 5 points."""
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#~|$&!^])")


def render_card(facts: Mapping[str, Any]) -> str:
    """The card of `facts` (`finetune.training.finish`)."""
    environment = templates(autoescape=False)
    environment.filters |= {"md": escaped, "code": code, "json": json.dumps}
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
    """Text that Markdown shows as it is: no markup, no HTML, no end of a table's cell."""
    return _MARKS.sub(r"\\\1", printable(str(value)))


def code(value: Any) -> str:
    """Text as inline code, whatever ticks are in it (CommonMark 6.1). Bars are escaped: they end a table's cell."""
    shown = printable(str(value)).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    space = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{space}{shown}{space}{fence}"
