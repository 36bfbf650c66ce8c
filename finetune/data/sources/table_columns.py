"""The usual names of the columns of tables: which holds the image or its path, which the label, which the split."""

import re
from collections.abc import Sequence

_USUAL = {
    "path": "imagepath imgpath filepath filename imagefile imagename imgname file path image img photo picture imageid "
    "imgid photoid fileid id name fname",
    "label": "label class category target classname labelname classlabel breed species genus kind type "
    "diagnosis dx y tag classid labelid categoryid targetid finelabel",
    "split": "split set subset partition phase fold usage datasplit dataset",
}
USUAL = {role: tuple(names.split()) for role, names in _USUAL.items()}
"""By role, as `plain` spells them; where a table has several, the first counts."""


def plain(name: str) -> str:
    """A column's name without case, spaces and underscores."""
    return re.sub(r"[\W_]+", "", name.lower())


def usual_columns(role: str, names: Sequence[str]) -> list[int]:
    """The positions of the `names` that are usual for a role, also in the plural, the most usual first."""
    spelled = [plain(name) for name in names]
    forms = ((one, f"{one}s", f"{one}es") if len(one) > 2 else (one,) for one in USUAL[role])  # `yes` is not several y
    return [at for usual in forms for at, own in enumerate(spelled) if own in usual]
