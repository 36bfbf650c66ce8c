"""The files that a table of images names: in its folder, in the folders beside it, or where they have been moved to."""

import os
from collections import Counter
from functools import cached_property
from itertools import islice
from pathlib import Path

from checkpoints.errors import listed
from finetune.data import decoding
from finetune.data.image_files import images_below, is_visible
from finetune.data.sources.split_names import role_of
from finetune.errors import FinetuneError
from finetune.text import printable

_MOST = 1_000_000
"""With more images below a table, they are not looked for by their names alone."""


class PathFinder:
    """Finds the files that the table `path` names. Each folder is listed once."""

    def __init__(self, path: Path) -> None:
        self._root, self._stem = str(path.parent), path.stem
        self._inside: dict[str, list[str]] = {}
        self._listed: dict[str, tuple[set[str], dict[str, str]]] = {}
        self._outside: dict[str, str] = {}
        self._gone: str | None = None

    def __call__(self, text: str, split: str | None) -> str | None:
        """The file that `text` names, as in `places`; None if there is none. FinetuneError if there are several."""
        places = self._there(text, split)
        if len(places) > 1:
            raise FinetuneError(
                f"'{printable(text)}' is {' and '.join(map(printable, places[:2]))}: name the folder in the table"
            )
        if places and os.path.relpath(places[0], self._root).startswith(os.pardir):
            self._outside[places[0]] = os.path.dirname(places[0])
        elif not places:
            beginning, places = self._moved(text, split)
            self._gone = beginning if places else self._gone
        return places[0] if places else None

    def places(self, text: str, split: str | None) -> list[str]:
        """The files that `text` may name, in a row of that split if the table says so.

        The table's folder comes first, then the folders beside it that belong to the split, then the others, but not
        those of another split; then, if there are no images below the table's folder (`annotations/`), the same in the
        folder that it is in; then all folders below, for a name without folders. Of a path that begins where the images
        no longer are, such as `/content/drive/`, the end counts.
        """
        return self._there(text, split) or self._moved(text, split)[1]

    def _moved(self, text: str, split: str | None) -> tuple[str, list[str]]:
        """(the beginning of a path that is not here, the files that the rest names). It is the same in all rows."""
        value = text.replace("\\", "/")
        ends = [at + 1 for at, one in enumerate(value) if one == "/"]
        for end in ends if self._gone is None else [len(self._gone)]:
            if value[:end] == (self._gone or value[:end]) and (places := self._there(value[end:], split)[:1]):
                return value[:end], places
        return "", []

    def _there(self, text: str, split: str | None) -> list[str]:
        for value in dict.fromkeys((text, text.replace("\\", "/"))):
            for root in (self._root, *self._above):
                if found := self._beside(root, value, split):
                    return found
            if hits := [hit for hit in self._by_name.get(value, ()) if self._fits(hit, split)]:
                return hits
        return []

    def _fits(self, path: str, split: str | None) -> bool:
        """Whether a file below the table's folder does not lie in a folder of another split than a row's."""
        role = split or role_of(self._stem)
        own = role_of(Path(os.path.relpath(path, self._root)).parts[0])
        return None in (role, own) or own in (role, "evaluation")

    def _beside(self, root: str, value: str, split: str | None) -> list[str]:
        """The files called `value` in `root` itself, else in the folders in it that fit the split."""
        if found := self._in(root, value):
            return [found]
        role = split or role_of(self._stem)
        roles = {name: role_of(name) for name in self._folders(root)}
        roles |= {name: "own" for name, own in roles.items() if name == self._stem and own in (None, role)}
        meant = ("own", role or "train", *(("evaluation",) if role in ("test", "validation") else ()))
        fitting = [name for name, own in roles.items() if own in meant]
        # Where a row is known to be for training, an image of the same name in test/ is another one.
        others = [name for name, own in roles.items() if role is None or own is None]
        for folders in (fitting, others):
            if hits := [hit for name in folders if (hit := self._in(os.path.join(root, name), value))]:
                return hits
        return []

    def _folders(self, root: str) -> list[str]:
        if root not in self._inside:
            with os.scandir(root) as entries:
                self._inside[root] = sorted(
                    entry.name for entry in entries if is_visible(entry.name) and entry.is_dir()
                )
        return self._inside[root]

    @cached_property
    def _below(self) -> list[str]:
        """All images below the table's folder, at most _MOST."""
        return list(islice(images_below(Path(self._root), Counter()), _MOST))

    @cached_property
    def _above(self) -> tuple[str, ...]:
        return () if self._below else (os.path.join(self._root, os.pardir),)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The images below the table's folder by their names, with and without suffix."""
        found: dict[str, list[str]] = {}
        for path in self._below if len(self._below) < _MOST else ():
            name = os.path.basename(path)
            for key in dict.fromkeys((name, os.path.splitext(name)[0])):
                found.setdefault(key, []).append(path)
        return found

    def remarks(self) -> tuple[str, ...]:
        """Sentences on images outside the table's folder, and on paths that begin elsewhere; none if there are none."""
        folders = [printable(name) for name in sorted(set(self._outside.values()))]
        outside = f"{len(self._outside)} images lie outside the table's folder, in {listed(folders, most=3)}"
        moved = (
            f"paths begin with {printable(self._gone or '')}, which is not here: the rest is looked for in {self._root}"
        )
        return (*([outside] if folders else []), *([moved] if self._gone else []))

    def _in(self, folder: str, value: str) -> str | None:
        if not value or "\0" in value:
            return None
        parent, name = os.path.split(os.path.join(folder, value))
        if parent not in self._listed:
            self._listed[parent] = _listing(parent)
        names, by_stem = self._listed[parent]
        name = name if name in names else by_stem.get(name, "")
        return os.path.join(parent, name) if name else None


def _listing(folder: str) -> tuple[set[str], dict[str, str]]:
    """(the names of the files in `folder`, those of images by their name without suffix); empty if it is no folder."""
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set(), {}
    parts = ((*os.path.splitext(name), name) for name in sorted(names))
    return names, {stem: name for stem, suffix, name in parts if suffix.lower() in decoding.SUFFIXES}
