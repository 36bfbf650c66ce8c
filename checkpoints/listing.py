"""The catalogue as tables: for a terminal, and as the page docs/backbones.md."""

from collections.abc import Sequence
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
- **BN decay**: share of the old moving statistics kept at one update, in the published training.
- **weights**: the published file. "yours": no published file is known, give your own with `--checkpoint`.

"""
_COLUMNS = (
    ("name", ":---"),
    ("source", ":---"),
    ("top-1", "---:"),
    ("top-5", "---:"),
    ("parameters", "---:"),
    ("px", "---:"),
    ("least px", "---:"),
    ("preprocessing", ":---"),
    ("outputs", "---:"),
    ("BN decay", "---:"),
    ("weights", ":---"),
    ("reference", ":---"),
)


def as_json(specs: Sequence[BackboneSpec] = CATALOG) -> list[dict[str, Any]]:
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
        for spec in specs
    ]


def markdown(specs: Sequence[BackboneSpec] = CATALOG) -> str:
    """The page, the same on every machine."""
    rows = [[title for title, _ in _COLUMNS], [rule for _, rule in _COLUMNS], *map(_cells, specs)]
    return _PAGE + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def millions(parameters: int | None) -> str:
    """`23.6 M`; "" where it is not known."""
    return "" if parameters is None else f"{parameters / 1e6:.1f} M"


def _cells(spec: BackboneSpec) -> list[str]:
    return [
        f"`{spec.name}`",
        spec.source,
        "" if spec.top1 is None else f"{spec.top1:g}",
        "" if spec.top5 is None else f"{spec.top5:g}",
        millions(spec.parameters),
        str(spec.image_size),
        str(spec.least_size),
        spec.preprocessing,
        str(spec.outputs or ""),
        f"{spec.bn_decay:g}",
        _weights(spec),
        spec.reference.replace("|", "\\|"),
    ]


def _weights(spec: BackboneSpec) -> str:
    if spec.bundled:
        return "in this package"
    if spec.unpublished:
        return "none: trained from scratch"
    if spec.url is None:
        return "yours"
    without = f", [without head]({spec.url_no_head})" if spec.url_no_head else ""
    return f"[file]({spec.url}){without}"
