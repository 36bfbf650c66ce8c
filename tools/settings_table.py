"""The table of all settings in docs/settings.md. Run `python -m tools.settings_table` (or `make docs`) to write it."""

import itertools
from dataclasses import MISSING
from pathlib import Path

from finetune.config import SETTINGS
from finetune.config.settings import Setting

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
BEGIN = "<!-- The table of settings begins: 'make docs' writes it from finetune/config/run_config.py. -->\n"
END = "<!-- The table of settings ends. -->\n"


def table() -> str:
    """A heading and a table for every section, in Markdown."""
    parts = []
    for section, names in itertools.groupby(SETTINGS, lambda name: SETTINGS[name].section):
        rows = "".join(_row(name, SETTINGS[name]) for name in names)
        parts.append(f"### {section}\n\n| setting | values | default | meaning |\n|---|---|---|---|\n{rows}")
    return "\n".join(parts)


def with_table(page: str) -> str:
    """The text of the page with the table of today's settings between the two marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


def _row(name: str, setting: Setting) -> str:
    default = "must be given" if setting.default is MISSING else setting.default_words
    cells = (f"`{name}`", setting.check.expected, default, setting.help)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('*', chr(92) + '*') for cell in cells)} |\n"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
