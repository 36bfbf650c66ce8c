"""Text made printable; sizes as text."""

import re
from typing import Any


def printable(text: str) -> str:
    """`text` with what steers a terminal or hides (escapes, line ends, marks of direction) written as `\\x1b`."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def all_printable(value: Any) -> Any:
    """`printable` of every text in a JSON value, keys included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): all_printable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [all_printable(one) for one in value]
    return value


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def size_in_bytes(text: str) -> int | None:
    """`10GiB`, `500 MB`, `2g` or `0` as bytes; None where it is no size."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip().lower())
    return int(float(found[1]) * _UNITS[found[2] or ""]) if found else None


def size_in_words(size: int) -> str:
    """`1.5 GiB`, `3.0 MiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
