"""Tables of one data set: `train.csv` with the `test.csv` and `val.csv` that stand beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from checkpoints.errors import listed
from finetune.data.sources.split_names import roles_of, settled
from finetune.data.sources.table_rows import Table, read_rows
from finetune.errors import FinetuneError
from finetune.text import printable


def tables_beside(path: Path) -> dict[str, Path]:
    """Each split, the training images' first, and its table, where `path` is called as a table of training images is
    and tables of its kind with the names of other splits stand beside it: `train.csv`, `test.csv`. Empty without any.

    Where two mean the same split, such as `train1.txt` and `train2.txt`, there is none.
    """
    alike = [one for one in path.parent.iterdir() if one.suffix.lower() == path.suffix.lower() and one.is_file()]
    stems = {one.stem: one for one in sorted(alike)}
    roles = {stem: role for stem, role in roles_of(stems).items() if role not in (None, "unlabelled")}
    if roles.get(path.stem) != "train" or len(roles) < 2:
        return {}
    try:
        names = settled(roles, str(path.parent))[0]
    except FinetuneError:
        return {}
    return {split: stems[stem] for split, stem in names.items()}


def read_beside(path: Path) -> tuple[dict[str, Table], tuple[str, ...]]:
    """(the tables of the splits, that of the training images at least; what is not used, and why).

    A table with other columns than that of the training images, such as one without labels, is not used. Raises
    FinetuneError as `read_rows` for `path` itself.
    """
    found, unfit = {"train": read_rows(path)}, []
    for split, beside in tables_beside(path).items():
        try:
            table = found["train"] if split == "train" else read_rows(beside)
        except FinetuneError:
            table = None
        if table is not None and table.header == found["train"].header:
            found[split] = table
        else:
            unfit.append(beside.name)
    return found, not_used(unfit, path)


def not_used(unfit: Sequence[str], path: Path) -> tuple[str, ...]:
    """A sentence on the tables that are unlike `path`; none if there are none."""
    names = printable(listed(unfit, most=5))
    return (f"not used: {names}, whose columns are not those of {printable(path.name)}",) if unfit else ()


def as_one(root: Path, tables: Mapping[str, Table], column: str) -> Table:
    """The tables of the splits as one, with one more column for the split.

    Raises FinetuneError if their columns differ.
    """
    first = tables["train"]
    for one in tables.values():
        if one.header != first.header:
            raise FinetuneError(
                f"{one.path} has the columns {printable(listed(list(one.header)))}, {first.path} has "
                f"{printable(listed(list(first.header)))}: expected the same"
            )
    rows = [[*row, split] for split, one in tables.items() for row in one.rows]
    return Table(root / first.path.name, [*first.header, column], rows)
