"""The catalogue as tables: for a terminal, and as the page docs/backbones.md."""

from collections.abc import Callable
from typing import Any

from checkpoints import store
from checkpoints.catalog.lookup import CATALOG
from checkpoints.catalog.spec import BackboneSpec

_PAGE = """\
# Backbones

`make docs` (`finetune backbones list --markdown`) writes this page from the catalogue, `checkpoints/catalog/`. Tests
compare the page with the catalogue and build every row. `finetune backbones show NAME` prints a row's stages and layer
names. `finetune backbones verify NAME` compares its network with the original.

- **top-1, top-5**: published ImageNet accuracy in percent. **parameters**: weights and statistics without the head.
- **px**: side of the images in the published training; **least px**: the smallest side the network accepts.
- **outputs**: of the published head; 1001 include a background class at index 0.
- **BN decay**: share of the old moving statistics kept at one update, in the published training; "none": no BatchNorm.
- **weights**: the published file. "yours": no published file is known, give your own with `--checkpoint`.

"""


def as_json() -> list[dict[str, Any]]:
    """A mapping for each row, with the file in the cache (or in this package) that belongs to it, or None."""
    return [
        {
            "name": spec.id,
            "source": spec.source,
            "top1": spec.top1,
            "parameters": spec.parameters,
            "image_size": spec.image_size,
            "least_size": spec.least_size,
            "bn_decay": spec.bn_decay,
            "cached": str(path) if (path := store.is_cached(spec)) else None,
        }
        for spec in CATALOG
    ]


def markdown() -> str:
    """The page, the same on every machine."""
    rows = [[title for title, _, _ in _COLUMNS], [rule for _, rule, _ in _COLUMNS]]
    rows += [[cell(spec) for _, _, cell in _COLUMNS] for spec in CATALOG]
    return _PAGE + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def millions(parameters: int | None) -> str:
    """`23.6 M`; "" where it is not known."""
    return "" if parameters is None else f"{parameters / 1e6:.1f} M"


def _weights(spec: BackboneSpec) -> str:
    if spec.bundled:
        return "in this package"
    if spec.unpublished:
        return "none: trained from scratch"
    if spec.url is None:
        return "yours"
    without = f", [without head]({spec.url_no_head})" if spec.url_no_head else ""
    return f"[file]({spec.url}){without}"


_COLUMNS: tuple[tuple[str, str, Callable[[BackboneSpec], str]], ...] = (
    ("name", ":---", lambda spec: f"`{spec.name}`"),
    ("source", ":---", lambda spec: spec.source),
    ("top-1", "---:", lambda spec: "" if spec.top1 is None else f"{spec.top1:g}"),
    ("top-5", "---:", lambda spec: "" if spec.top5 is None else f"{spec.top5:g}"),
    ("parameters", "---:", lambda spec: millions(spec.parameters)),
    ("px", "---:", lambda spec: str(spec.image_size)),
    ("least px", "---:", lambda spec: str(spec.least_size)),
    ("preprocessing", ":---", lambda spec: spec.preprocessing),
    ("outputs", "---:", lambda spec: str(spec.outputs or "")),
    ("BN decay", "---:", lambda spec: "none" if spec.bn_decay is None else f"{spec.bn_decay:g}"),
    ("weights", ":---", _weights),
    ("reference", ":---", lambda spec: spec.reference.replace("|", "\\|")),
)
"""Title, alignment in Markdown, and the cell of a row."""
