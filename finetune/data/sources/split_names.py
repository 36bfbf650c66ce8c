"""Which names mean a split, as people give them to folders, files, arrays and in tables: a rule, not a list."""

import re
from collections.abc import Iterable, Mapping
from itertools import takewhile

from finetune.errors import FinetuneError

_FILLING = "seg|sets?|images?|imgs?|pictures?|pics?|photos?|data|datasets?|splits?|folders?|files?|jpe?g|png"
"""Words that say nothing beside the name of a split: `seg_train`, `test-images`, `trainingSet`."""
_NAMES = {
    "train": "train|training|trn",
    "validation": "val|valid|validation|validate|publictest",
    "test": "test|testing|tst|privatetest",
    "evaluation": "eval|evaluation|holdout|dev|devel|development",
    "unlabelled": "pred|predict|predictions?|unlabell?ed|submissions?",
}
_PATTERN = re.compile(
    f"(?:{_FILLING})*(?:{'|'.join(f'(?P<{role}>{names})' for role, names in _NAMES.items())})(?:{_FILLING})*[0-9]*"
)
WORDS = "|".join(_NAMES.values())
"""The names as alternatives of a regular expression."""
_BETWEEN = re.compile(r"[\W_]+")


def role_of(name: str) -> str | None:
    """What a name means: train, validation, test, evaluation (`dev`, `eval`: see `settled`), unlabelled; or None."""
    found = _PATTERN.fullmatch(_BETWEEN.sub("", name.lower()))
    return found.lastgroup if found else None


def split_word(name: str) -> str:
    """The first word for a split in a longer name, such as `flowers_train_00000-of-00005.tfrecord`; "" without one.

    It is the role, but `dev` and `eval` stay as they are: see `settled`.
    """
    for word in _BETWEEN.split(name.lower()):
        if role := role_of(word):
            return word if role == "evaluation" else role
    return ""


def roles_of(names: Iterable[str]) -> dict[str, str | None]:
    """The role of each name. Words that all names begin with do not count: `flowers_train`, `flowers_test`."""
    words = {name: [word for word in _BETWEEN.split(name) if word] for name in names}
    columns = zip(*words.values(), strict=False) if len(words) > 1 else ()
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return {name: role_of(name) or role_of(" ".join(one[shared:])) for name, one in words.items()}


def settled(roles: Mapping[str, str | None], place: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Maps each split to its name, and says of `eval` and `dev` what they were taken for.

    These are the test set if nothing else is, `eval` before `dev`; otherwise the validation set. Raises FinetuneError,
    beginning with `place`, where two names mean the same.
    """
    found: dict[str, str] = {}
    remarks = []
    by_eval = sorted(roles, key=lambda name: (roles[name] == "evaluation", "dev" in name.lower(), name))
    for name in by_eval:
        role = roles[name]
        if role in (None, "unlabelled"):
            continue
        if role == "evaluation":
            role = "validation" if "test" in found else "test"
            remarks.append(f"'{name}' is taken for the {role} images")
        if role in found:
            raise FinetuneError(f"{place} holds {found[role]} and {name}, which mean the same: keep one of them")
        found[role] = name
    return {split: found[split] for split in ("train", "validation", "test") if split in found}, tuple(remarks)
