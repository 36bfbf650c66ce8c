"""rich's console for this program; apart from `terminal`, because rich takes a while to import."""

from collections.abc import Iterable

import rich.console
from rich.segment import Segment

from finetune.cli.terminal import neutral


class Console(rich.console.Console):
    """rich's, whose own control codes pass, and those in the texts it is given do not."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            one if one.control else Segment(neutral(one.text), one.style, one.control) for one in buffer
        )
