"""Tables on standard output whose cells are never cut: long names and paths must be readable, and found by grep."""

from collections.abc import Sequence

import click

from finetune.text import printable


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, numbers: Sequence[str] = ()) -> None:
    """Columns as wide as they need; those titled in `numbers` to the right."""
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = (
            cell.rjust(width) if title in numbers else cell.ljust(width)
            for title, cell, width in zip(header, row, widths, strict=True)
        )
        click.echo("  ".join(cells).rstrip())
