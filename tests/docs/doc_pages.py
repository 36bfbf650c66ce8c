"""What README.md and the pages of docs/ ask a reader to type, and how a page says so.

Conventions of a page, which `test_commands_in_docs.py` holds:

- ` ```sh ` is what a reader types: bash, all of it. ` ```console ` shows what is typed after `$ ` and what comes back.
- ` ```python ` is a script. The python blocks of a page share one namespace, as a reader's session does.
- A block without a language is output, or a file; no line of it may begin with `finetune `. (`$ finetune` is typed.)
- `<!-- file: NAME -->` on the line above a block: the block is the content of the file NAME, which later blocks use.
- `<!-- not run: REASON -->` on the line above a block: nobody can run it here (a cluster, hours). Its commands are
  checked all the same, but not run. There are few of them, `test_docs_run.py` counts them.
- `# exit code 3: WORD` behind a command: how it ends, and what it prints among other things. Without it, a command
  ends with 0, and `finetune diagnose-bn` with 0, 3 or 4.
- Words in capitals stand for what the reader has: RUN (a finished run), DIR, JOBS.toml. `B` is a backbone and its data.
- What a reader has, such as `photos/` or `runs/my-run`, lies in the directory in which a page is run: `stand_ins.py`.

The blocks of a page run in their order, in one directory, so a page can use what it has made.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.places import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples" / "README.md")

_BLOCK = re.compile(r"((?:^[ ]*<!--[^\n]*-->\n)*)^[ ]*```([^\n`]*)\n(.*?)^[ ]*```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: language ("" without), text, its first line in the page, what the comments above it say."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None
    file: str | None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def typed(self) -> str:
        """What of it goes to a shell: all of `sh`, in others what follows `$ ` (and lines a backslash continues)."""
        if self.file is not None or self.language not in ("sh", "console", ""):
            return ""
        if self.language == "sh":
            return self.text
        lines, going_on = [], False
        for line in self.text.splitlines():
            if going_on or line.startswith("$ "):
                lines.append(line if going_on else line.removeprefix("$ "))
                going_on = line.endswith("\\")
        return "".join(f"{line}\n" for line in lines)

    @property
    def runs(self) -> bool:
        """Whether there is something to run in it."""
        return self.not_run is None and (self.file is not None or self.language == "python" or bool(self.typed))


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        comments, language, content = match.groups()
        said = dict(re.findall(r"<!--\s*(not run|file):\s*(.*?)\s*-->", comments))
        line = text.count("\n", 0, match.start(2)) + 1
        marks = (said.get("not run"), said.get("file"))
        found.append(Block(page, line, language.strip(), content, *marks))
    return found


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(where, words after `finetune`) of every command of a page, without comments, redirections and pipes."""
    for block in blocks(page):
        for offset, line in enumerate(_joined(block.typed)):
            for part in re.split(r"(?:^|\s)(?:srun|&&|\|\||\||;)\s", line):
                found = re.match(r"(?:\w+=\S+ )*finetune (.*)", part.strip())
                if found:
                    words = shlex.split(re.sub(r"\s\d?>+\s*\S+", "", found[1]), comments=True)
                    yield f"{block.where}+{offset}", [word for word in words if word != "&"]


def _joined(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text())
