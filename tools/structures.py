"""Write `checkpoints/structures.json.gz` from the networks: `python -m tools.structures [NAME...]`."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import keras

import checkpoints
from checkpoints.atomic import replacing
from checkpoints.catalog.lookup import CATALOG, BackboneSpec, find_row
from checkpoints.matching import structures
from checkpoints.matching.structures import Entry
from finetune.backbone import networks
from finetune.backbone.file_names import network_entries


def build(spec: BackboneSpec) -> list[Entry]:
    """The structure of a catalogue row with its published head, at its published size: a head that takes a flattened
    map, as Keras's VGG has it, is another at every size.

    Where nothing is published, one logit stands for a head of any size.
    """
    keras.backend.clear_session(free_memory=True)
    outputs = spec.outputs or 1
    network = networks.build(spec.family, image_size=spec.image_size, outputs=outputs, arguments=spec.arguments)
    return network_entries(network.model, source=spec.source)


def write(path: Path, specs: Iterable[BackboneSpec] = CATALOG, *, kept: Mapping[str, Sequence[Entry]]) -> None:
    """Build these rows, one after another, and write them with those of `kept` that are in the catalogue."""
    rows = {spec.id: kept[spec.id] for spec in CATALOG if spec.id in kept}
    for spec in specs:
        rows[spec.id] = build(spec)
        print(f"{spec.id:32} {len(rows[spec.id]):5d} variables", file=sys.stderr)
    with replacing(path) as temporary:
        temporary.write_bytes(structures.encoded(rows))


if __name__ == "__main__":
    named = [find_row(name) for name in sys.argv[1:]]
    write(
        Path(checkpoints.__file__).parent / structures.FILE,
        named or CATALOG,
        kept=structures.structures() if named else {},
    )
