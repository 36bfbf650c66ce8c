"""rich's console for this program; apart from `terminal`, because rich takes a while to import."""

from collections.abc import Iterable
from typing import IO, Any, cast

import rich.console
from rich.segment import Segment

from finetune.cli.terminal import neutral


class Console(rich.console.Console):
    """rich's, whose own control codes pass, and those in the texts it is given do not."""

    @property
    def file(self) -> IO[str]:
        """The stream itself: a progress bar puts rich's stand-in for it in front of ours."""
        file: Any = super().file
        while hasattr(file, "rich_proxied_file"):
            file = file.rich_proxied_file
        return cast(IO[str], file)

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            one if one.control else Segment(neutral(one.text), one.style, one.control) for one in buffer
        )
