"""Printable text, phrases of error messages, and sizes as text: of files and of images."""

import difflib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple


def printable(text: str) -> str:
    """`text` with control and invisible characters (escapes, line ends, direction marks) written as `\\x1b`."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def all_printable(value: Any) -> Any:
    """`printable` of every text in a JSON value, including keys."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): all_printable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [all_printable(one) for one in value]
    return value


def first_line(error: BaseException, most: int = 300) -> str:
    """The first line of an error's message, at most `most` characters of it; the error's type if it has no message."""
    text = str(getattr(error, "message", None) or error)  # TensorFlow's `message` lacks the stack that `str` appends
    return text.strip().partition("\n")[0][:most] or type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean X? ` with the nearest of the `known` names; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def size_in_bytes(text: str) -> int | None:
    """The bytes of `10GiB`, `500 MB`, `2g` or `0`; None if the text is not a size."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip().lower())
    return int(float(found[1]) * _UNITS[found[2] or ""]) if found else None


def size_in_words(size: int) -> str:
    """A size in bytes as text: `1.5 GiB`, `3.0 MiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def pairs(text: str) -> dict[str, str] | None:
    """`KEY=NAME,KEY=NAME` as a mapping; None if `text` is not of that form, or has a key twice."""
    parts = [part.partition("=") for part in text.split(",")]
    found = {key.strip(): name.strip() for key, _, name in parts}
    return found if len(found) == len(parts) and all(found) and all(found.values()) else None


ImageSize = int | str
"""The size of images as a setting: the side in px of square RGB images, or `24x32` (height and width), or `28x28x1`
with the channels."""

_IMAGE_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})(?:x([134]))?")


class ImageShape(NamedTuple):
    """The shape of an image: height and width in px, channels (1, 3 or 4)."""

    height: int
    width: int
    channels: int = 3

    @property
    def setting(self) -> ImageSize:
        """The shape as a setting, in its shortest form."""
        if self.channels == 3:
            return self.height if self.height == self.width else f"{self.height}x{self.width}"
        return "x".join(map(str, self))

    def __str__(self) -> str:
        """`96 px`; `24x32 px`; `28x28 px, 1 channel`."""
        sides = self.height if self.height == self.width else f"{self.height}x{self.width}"
        return f"{sides} px{'' if self.channels == 3 else f', {self.channels} channel' + 's' * (self.channels > 1)}"


def shape_of(size: ImageSize) -> ImageShape:
    """The shape that a setting means: `96` is 96 x 96 px RGB. ValueError for what is none."""
    if isinstance(size, int):
        return ImageShape(size, size)
    found = _IMAGE_SIZE.fullmatch(size)
    if found is None:
        raise ValueError(f"{size!r} is no size of images")
    return ImageShape(int(found[1]), int(found[2]), int(found[3] or 3))


def in_python(message: str) -> str:
    """A message of the command line in terms of arguments and functions: `--bn-decay 2` becomes `bn_decay=2`."""
    message = re.sub(r"'?finetune run --resume (\S+?)'?(?=$|[\s,;:])", r"finetune.resume('\1')", message)
    message = re.sub(r"finetune (run|evaluate|diagnose-bn|recalibrate-bn)\b", _function, message)
    message = re.sub(r"--([a-z][a-z0-9-]*) ('[^']*'|\[[^\]]*\]|[A-Z0-9./~-][^\s,;:)]*)", _argument, message)
    return re.sub(r"--([a-z][a-z0-9-]*)", lambda found: found[1].replace("-", "_"), message)


def _function(found: re.Match[str]) -> str:
    return f"finetune.{found[1].replace('-', '_')}"


def _argument(found: re.Match[str]) -> str:
    return f"{found[1].replace('-', '_')}={found[2]}"
